/**
 * The messages of groups in a page, over a WebSocket that comes again by itself.
 *
 *     import { connect } from "/aiopyramid/groups.js";
 *     const feed = connect("/room?name=ann", { onmessage({ group, data }) { show(data); } });
 *     feed.send("hello");
 *
 * The server joins groups with `form=TAGGED`, and those with a history with
 * `after=aiopyramid.broadcast.after(request, group)`: then it goes on where it was. It serves this
 * file by `config.add_static_view("aiopyramid", "aiopyramid:static")`.
 */

// Milliseconds: the longest first wait, the longest of all, and how long a connection lasts whose
// loss counts as the first one again.
const FIRST = 1000, LONGEST = 30000, STABLE = 10000;

/** Is a connection that was closed with this code not opened again? */
export function isFinal(code) {
  return code === 1000 || code === 1008 || (code >= 4000 && code <= 4999);
}

/**
 * Open a connection, and open it again whenever it is lost.
 *
 * @param {string|URL|function} url - Where, relative to the page; or what returns that each time.
 * @param {object} options - All of it may be missing:
 *   onmessage({group, data, id}): a message, a string or a Uint8Array.
 *   onresync({group, reason}): messages of the group may be missing here.
 *   onother(data): what is of no group, a string or an ArrayBuffer.
 *   onopen(): it is open; onclose({code, reason, again}): it is closed, and opened again in so many
 *     milliseconds, or when the browser is online again, or when the page comes back by the browser's
 *     Back button; or not at all: null.
 *   isFinal(code): says that of a code; protocols: the subprotocols to offer.
 * @returns {object} send(data), which returns false if it is not open; retry(), at once, also if it
 *   was closed for good; close(code, reason), for good.
 */
export function connect(url, options = {}) {
  const positions = new Map(); // by group: the id of the last message, or null without a history
  let socket = null, timer, losses = 0, opened = 0, ended = false;

  function open() {
    stopWaiting();
    addEventListener("pagehide", leave);
    addEventListener("pageshow", comeBack);
    if (navigator.onLine === false) return addEventListener("online", open);
    socket = new WebSocket(address(), options.protocols ?? []);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      opened = performance.now();
      options.onopen?.();
    };
    socket.onmessage = ({ data }) => take(data);
    socket.onclose = ({ code, reason }) => lost(code, reason);
  }

  function address() {
    const found = new URL(typeof url === "function" ? url() : url, location.href);
    found.protocol = found.protocol.replace("http", "ws");
    found.hash = "";
    for (const [group, id] of positions) {
      if (id !== null) found.searchParams.set(`after.${group}`, id);
    }
    return found;
  }

  function take(received) {
    const message = parse(received);
    if (!message) return options.onother?.(received);
    const { group, id, resync, base64 } = message;
    if (id !== undefined) positions.set(group, id);
    if (resync !== undefined) return options.onresync?.({ group, reason: resync });
    const data = base64 === undefined ? message.data : bytes(base64);
    if (data !== undefined) return options.onmessage?.({ group, data, id });
    // It tells where the group is joined: without a history, again behind a gap.
    if (id !== undefined) return;
    if (positions.has(group)) options.onresync?.({ group, reason: "reconnect" });
    positions.set(group, null);
  }

  function lost(code, reason) {
    socket = null;
    if (ended || (options.isFinal ?? isFinal)(code)) end();
    if (opened && performance.now() - opened > STABLE) losses = 0;
    opened = 0;
    // Anything from 0 to the longest, so that those who were lost together do not come together.
    const again = ended ? null : Math.random() * Math.min(FIRST * 2 ** losses++, LONGEST);
    if (!ended) timer = setTimeout(open, again);
    options.onclose?.({ code, reason, again });
  }

  // A browser keeps a page for its Back button, and would keep the connection too: those who have
  // left would still be in their groups. It is opened again when the page comes back.
  function leave() {
    stopWaiting();
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    socket = null;
    opened = 0;
    options.onclose?.({ code: 1000, reason: "the page was left", again: 0 });
  }

  function comeBack({ persisted }) {
    if (persisted && !socket) open();
  }

  function end() {
    ended = true;
    stopWaiting();
    removeEventListener("pagehide", leave);
    removeEventListener("pageshow", comeBack);
  }

  function stopWaiting() {
    clearTimeout(timer);
    removeEventListener("online", open);
  }

  open();
  return {
    send(data) {
      if (socket?.readyState !== WebSocket.OPEN) return false;
      socket.send(data);
      return true;
    },
    retry() {
      ended = false;
      if (!socket) open();
    },
    close(code = 1000, reason = "") {
      end();
      socket?.close(code, reason);
    },
  };
}

function parse(received) {
  try {
    const message = JSON.parse(received);
    return typeof message?.group === "string" ? message : null;
  } catch {
    return null; // not of a group
  }
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
