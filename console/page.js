// Brings the page up to date without a flicker, and says when nobody answers.
setInterval(async () => {
  const main = document.querySelector("main");
  try {
    const answer = await fetch("/", {signal: AbortSignal.timeout(4000)});
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = page.title;
    main.replaceWith(page.querySelector("main"));
  } catch {
    if (document.querySelector("#lost")) return;
    const lost = document.createElement("p");
    lost.id = "lost";
    lost.className = "banner bad";
    lost.textContent = "cwprelay does not answer: what stands below is old.";
    main.prepend(lost);
    document.title = "NO ANSWER: cwprelay";
  }
}, 5000);
