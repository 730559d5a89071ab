// What the pages do without being loaded again. Without this script, forms and links work all the same.
"use strict";

const LANE_MAX = 200;
const REFRESH_EVERY = 1000;
const said = document.getElementById("said");

function say(text, ok) {
  said.textContent = text;
  said.className = ok ? "" : "refused";
}

// A quiet form is answered in place. Delegated, because parts of the page are replaced.
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!("quiet" in form.dataset)) return;
  event.preventDefault();
  const fields = new URLSearchParams(new FormData(form, event.submitter));
  try {
    const answer = await fetch(form.getAttribute("action"), { method: "POST", body: fields, headers: { "X-Script": "1" } });
    say(await answer.text(), answer.ok);
    // The next command is another one.
    const id = form.dataset.newId && form.elements[form.dataset.newId];
    if (answer.ok && id) id.value = "form-" + crypto.getRandomValues(new Uint32Array(2)).join("");
  } catch {
    say("the console does not answer: is it still running?", false);
  }
});

function elements(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

// What somebody opened stays open, and nobody loses the focus.
function replace(old, fresh) {
  if (old.contains(document.activeElement)) return;
  for (const details of old.querySelectorAll("details[id]")) {
    const again = fresh.querySelector("#" + details.id);
    if (again) again.open = details.open;
  }
  old.replaceChildren(...fresh.childNodes);
}

const lane = document.getElementById("lane");
const standing = document.getElementById("standing");
const live = document.querySelector("[data-live]");

if (lane || live) {
  const news = new EventSource("/news?after=" + (lane?.dataset.last ?? 0));
  if (lane) {
    news.addEventListener("standing", (event) => replace(standing, elements(JSON.parse(event.data))));
    news.addEventListener("lane", (event) => {
      const fresh = elements(JSON.parse(event.data));
      for (const entry of fresh.children) entry.classList.add("new");
      const last = fresh.querySelector("li[data-number]");
      const poison = document.querySelector("input[name=what][value=poison]");
      const aggregate = [...fresh.querySelectorAll(".what a")][0];
      if (last && poison && aggregate) poison.form.elements.aggregate.value = aggregate.textContent;
      lane.prepend(fresh);
      while (lane.children.length > LANE_MAX) lane.lastElementChild.remove();
      document.getElementById("begin")?.remove();
    });
  }
  if (live) {
    let due = null;
    news.addEventListener("lane", () => schedule());
    news.addEventListener("standing", () => schedule());
    const schedule = () => {
      if (due) return;
      due = setTimeout(async () => {
        due = null;
        const answer = await fetch(location.href);
        if (!answer.ok) return;
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.querySelector("[data-live]");
        if (fresh && fresh.innerHTML !== live.innerHTML) replace(live, fresh);
      }, REFRESH_EVERY);
    };
  }
  news.onerror = () => say("the console does not answer: is it still running?", false);
  news.onopen = () => { if (said.textContent.startsWith("the console does not answer")) say("", true); };
}

// The slider through a history.
const slider = document.querySelector("input[type=range][data-step]");
if (slider) {
  let latest = 0;
  slider.addEventListener("input", async () => {
    const request = ++latest;
    const url = new URL(location.href);
    url.searchParams.set("at", slider.value);
    const answer = await fetch(url);
    if (!answer.ok || request !== latest) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.getElementById("step").replaceChildren(...page.getElementById("step").childNodes);
    history.replaceState(null, "", url);
  });
}
