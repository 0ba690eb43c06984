// The page of the chat. groups.js comes with aiopyramid: it connects, connects again after a loss,
// and asks for what was missed meanwhile.
import { connect } from "/aiopyramid/groups.js";

const SHOWN = 500;
const find = (selector) => document.querySelector(selector);
const said = find("#said");

function make(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text; // text, and never HTML
  element.dir = "auto"; // whatever is in it turns nothing else around
  return element;
}

function show(...parts) {
  const item = document.createElement("li");
  item.append(...parts);
  const atEnd = said.scrollHeight - said.scrollTop - said.clientHeight < 40;
  said.append(item);
  while (said.children.length > SHOWN) said.firstChild.remove();
  if (atEnd) said.scrollTop = said.scrollHeight;
}

async function showMembers() {
  const response = await fetch("/members").catch(() => null); // the server is away
  if (response?.status === 403) location.assign("/sign-in"); // signed out, or in too long ago
  if (!response?.ok) return;
  const names = await response.json();
  const listed = names.flatMap((name) => [", ", make("bdi", name)]).slice(1);
  find("#members").replaceChildren("Here: ", ...listed);
}

function setState(text, { retry = false, signIn = false } = {}) {
  find("#state").value = text;
  find("#retry").hidden = !retry;
  find("#sign-in").hidden = !signIn;
}

const feed = connect("/chat", {
  onopen() { setState("Connected"); },
  onmessage({ group, data }) {
    if (group === "present") return showMembers();
    const { name, text, time } = JSON.parse(data);
    const at = new Date(time * 1000).toLocaleTimeString();
    show(make("time", at), make("strong", name), " ", make("span", text));
  },
  onresync({ group }) {
    if (group === "said") show(make("em", "Some messages may be missing here."));
    else showMembers();
  },
  onother(data) { // to this page alone
    show(make("em", "This could not be sent:"), " ", make("span", JSON.parse(data).not_sent));
  },
  onclose({ code, reason, again }) {
    find("#members").textContent = "";
    if (code === 4401) return setState("You have signed out.", { signIn: true });
    if (again === null) return setState(`Closed: ${reason || code}.`, { retry: true });
    setState(`Not connected: ${reason || code}. Connecting again…`, { retry: true });
    if (code === 1006) showMembers(); // a refused handshake does not tell why
  },
});

find("#retry").onclick = () => feed.retry();

find("#say").onsubmit = (event) => {
  event.preventDefault();
  const input = find("#say input");
  if (feed.send(JSON.stringify({ text: input.value }))) input.value = "";
  input.focus();
};
