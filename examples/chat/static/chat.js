// The room in the browser. What is typed is sent at once, or when the connection is back; what was said meanwhile comes
// by itself, in order.

const { room, name } = document.body.dataset;
const start = JSON.parse(document.getElementById("start").textContent);
const [state, list, typing, form, input, online] = ["state", "said", "typing", "form", "text", "online"].map((id) =>
  document.getElementById(id),
);

// What was said, by the id that its author gave it: a message that was sent twice is shown once.
const shown = new Map();
// What this visitor said and has not heard back.
const outbox = new Map();

function show({ id, name: author, text, at }, waits = false) {
  let item = shown.get(id);
  if (item === undefined) {
    item = document.createElement("li");
    shown.set(id, item);
  }
  const small = document.createElement("small");
  small.textContent = waits ? "waits for the connection" : `${author}, ${new Date(at * 1000).toLocaleTimeString([], { timeStyle: "short" })}`;
  item.className = `${author === name ? "mine" : ""} ${waits ? "waits" : ""}`;
  item.replaceChildren(small, text);
  list.append(item);
  list.scrollTop = list.scrollHeight;
}

let present = new Set();

function showOnline() {
  online.replaceChildren(
    ...[...present].sort().map((author) => {
      const item = document.createElement("li");
      item.textContent = author;
      return item;
    }),
  );
}

const typists = new Map();

function showTyping(author, seconds) {
  clearTimeout(typists.get(author));
  typists.delete(author);
  if (seconds > 0) typists.set(author, setTimeout(() => showTyping(author, 0), 1000 * seconds));
  const names = [...typists.keys()];
  typing.textContent = names.length ? `${names.join(", ")} ${names.length === 1 ? "is" : "are"} typing` : "";
}

const handlers = {
  said(message) {
    outbox.delete(message.id);
    showTyping(message.name, 0);
    if (!shown.get(message.id) || shown.get(message.id).classList.contains("waits")) show(message);
  },
  typing({ name: author }) {
    showTyping(author, 3);
  },
  online({ names }) {
    present = new Set(names);
    showOnline();
  },
  came({ name: author }) {
    present.add(author);
    showOnline();
  },
  went({ name: author }) {
    present.delete(author);
    showOnline();
  },
};

let isConnected = false;

function tell(text, connected) {
  isConnected = connected;
  state.textContent = text;
  state.classList.toggle("ok", connected);
}

start.said.forEach((message) => show(message));

const connection = resumable(`/room/${room}/?${new URLSearchParams({ name })}`, {
  since: [start.position],
  onFrame: (frame) => handlers[frame.type]?.(frame),
  onMissed: () => location.reload(),
  onResumed() {
    tell("connected", true);
    for (const message of outbox.values()) connection.send(JSON.stringify({ type: "say", ...message }));
  },
  onLost: () => tell("connection lost, trying again", false),
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = input.value.trim();
  if (!text) return;
  const message = { id: crypto.randomUUID(), text };
  outbox.set(message.id, message);
  show({ ...message, name }, true);
  if (isConnected) connection.send(JSON.stringify({ type: "say", ...message }));
  input.value = "";
});

let typedAt = 0;
input.addEventListener("input", () => {
  if (!isConnected || Date.now() - typedAt < 1500) return;
  typedAt = Date.now();
  connection.send(JSON.stringify({ type: "typing" }));
});

// ---- As in docs/resuming.md.

// Calls onFrame once for each frame, in order, across any number of reconnects. onMissed is called when something
// cannot be recovered: load the state anew. `since` are positions that the page was rendered with. From onResumed to
// onLost there is a connection to send on, and nothing is missing.
function resumable(url, { onFrame, onMissed, onResumed = () => {}, onLost = () => {}, since = [] }) {
  const groupOf = (position) => position.slice(25, 33);
  const epochOf = (position) => position.slice(33);
  const isSeen = (position, known) =>
    known !== undefined && epochOf(position) === epochOf(known) && position <= known;
  const positions = new Map(since.map((position) => [groupOf(position), position]));
  let socket, timer, attempts = 0, closed = false;

  function open() {
    const address = new URL(url, globalThis.location?.href);
    for (const position of positions.values()) address.searchParams.append("since", position);
    const atStart = new Map(positions);
    const mine = (socket = new WebSocket(address));
    mine.onmessage = ({ data }) => {
      // Nothing of a socket that was given up.
      if (mine !== socket || closed) return;
      const { position, ...frame } = JSON.parse(data);
      const group = position && groupOf(position);
      if (frame.type === "missed") {
        onMissed(frame.group);
        return;
      }
      if (frame.type === "resumed") {
        attempts = 0;
        positions.set(group, position);
        onResumed(frame.group);
        return;
      }
      if (group && isSeen(position, atStart.get(group))) return;
      onFrame(frame);
      if (group && !isSeen(position, positions.get(group))) positions.set(group, position);
    };
    mine.onclose = (event) => {
      if (mine !== socket || closed) return;
      onLost();
      // A server that is drained says when to come back. Else not all at the same moment when it is there again.
      const told = event?.code === 1012 ? 1000 * parseFloat(event.reason) : NaN;
      const backoff = (0.5 + Math.random()) * Math.min(10_000, 250 * 2 ** attempts);
      if (!(told >= 0)) attempts++;
      timer = setTimeout(open, told >= 0 ? told : backoff);
    };
  }

  open();
  return {
    send: (data) => socket.send(data),
    close() {
      closed = true;
      clearTimeout(timer);
      socket.close();
    },
  };
}
