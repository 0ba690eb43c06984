// The page of the chat. groups.js comes with aiopyramid: it connects, connects again after a loss,
// and asks for what was missed meanwhile.
import { connect } from "/aiopyramid/groups.js";

const SHOWN = 500;
const find = (selector) => document.querySelector(selector);
const said = find("#said");

function make(tag, text, className = "") {
  const element = document.createElement(tag);
  element.textContent = text; // text, and never HTML
  element.className = className;
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
  const response = await fetch("/members");
  if (!response.ok) return; // the connection tells what is wrong
  const names = await response.json();
  find("#members").textContent = `Here: ${names.join(", ")}`;
}

const feed = connect("/chat", {
  onopen() {
    find("#state").value = "Connected";
    find("#retry").hidden = true;
  },
  onmessage({ group, data }) {
    if (group === "present") return showMembers();
    const { name, text, time } = JSON.parse(data);
    const at = new Date(time * 1000).toLocaleTimeString();
    show(make("time", at), make("strong", name), " ", make("span", text));
  },
  onresync({ group }) {
    if (group === "said") show(make("em", "Some messages are missing here."));
  },
  onclose({ code, reason, again }) {
    const why = code === 4401 ? "You have signed out." : `Not connected (${reason || code}).`;
    const next = again === null ? "" : ` Next try in ${Math.ceil(again / 1000)} s.`;
    find("#state").value = why + next;
    find("#retry").hidden = code === 4401;
    find("#members").textContent = "";
  },
});

find("#retry").onclick = () => feed.retry();

find("#say").onsubmit = (event) => {
  event.preventDefault();
  const input = find("#say input");
  if (feed.send(JSON.stringify({ text: input.value }))) input.value = "";
  input.focus();
};
