import org.codelibs.opensearch.runner.OpenSearchRunner;

/** One OpenSearch node on loopback: its folder, HTTP port and transport port are the arguments. */
public class Node {
  public static void main(String[] args) throws Exception {
    var runner = new OpenSearchRunner();
    runner.onBuild((number, settings) -> {
      settings.put("http.port", args[1]);
      settings.put("transport.port", args[2]);
      settings.put("http.host", "127.0.0.1");
      settings.put("cluster.routing.allocation.disk.threshold_enabled", false);
    });
    runner.build(OpenSearchRunner.newConfigs().basePath(args[0]).numOfNode(1).clusterName("test"));
    Thread.currentThread().join();
  }
}
