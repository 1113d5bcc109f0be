// The live page. Draws the frames that channels_redis_fast.live sends: one each second over a WebSocket, or polled where
// there is none. Everything is text in elements made here; nothing from Redis becomes markup.

const WINDOW = 120; // Seconds that a line shows.
const QUIET = 4; // Seconds without a frame after which a socket counts as dead.
const UNSEEN = 30; // Seconds that a page goes on asking when nobody can see it.

// ---- Elements and numbers.

function h(tag, classes = "", ...children) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  element.append(...children);
  return element;
}

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// Only what differs, so that what a reader has selected stays so.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Has a parent show exactly these items, each by an element that stays its own for as long as it is there.
function show(parent, items, key, make, update) {
  const known = (parent.known ??= new Map());
  const gone = new Set(known.keys());
  let place = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    let element = known.get(name);
    if (element === undefined) known.set(name, (element = make(item)));
    gone.delete(name);
    update(element, item);
    if (element === place) place = place.nextSibling;
    else parent.insertBefore(element, place);
  }
  for (const name of gone) {
    known.get(name).remove();
    known.delete(name);
  }
}

const whole = new Intl.NumberFormat("en");

function number(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1e6) return `${(value / 1e6).toFixed(value < 1e7 ? 2 : 1)}M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(value < 1e5 ? 1 : 0)}k`;
  if (value >= 10 || Number.isInteger(value)) return whole.format(Math.round(value));
  return value < 0.05 ? value.toFixed(2) : value.toFixed(1);
}

function counted(value, one, many = `${one}s`) {
  return `${whole.format(value)} ${value === 1 ? one : many}`;
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (bytes < 1000) return `${bytes < 10 && unit !== "B" ? bytes.toFixed(1) : Math.round(bytes)} ${unit}`;
    bytes /= 1000;
  }
  return `${bytes.toFixed(1)} TB`;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds > 0 && seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// The end of an axis: 1, 2 or 5 times a power of ten.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

// ---- Lines that move, but for readers who want none of that.

const stillness = matchMedia("(prefers-reduced-motion: reduce)");

class Chart {
  // series: pairs of a label and a colour. unit: of the values. least: what the axis reaches at least.
  constructor(title, series, { format = number, least = 1, unit = "" } = {}) {
    this.format = format;
    this.unit = unit;
    this.least = least;
    this.samples = [];
    this.values = series.map(([label, colour]) => {
      const value = h("span", `value is-${colour}`, h("b", "", "–"), label);
      return value;
    });
    this.when = h("span", "soft", unit);
    this.most = h("span", "most");
    this.svg = svg("svg", { viewBox: `0 0 ${WINDOW} 100`, preserveAspectRatio: "none", "aria-hidden": "true" });
    this.svg.append(svg("line", { x1: 0, x2: WINDOW, y1: 4, y2: 4, class: "rule" }));
    this.svg.append(svg("line", { x1: 0, x2: WINDOW, y1: 99, y2: 99, class: "rule" }));
    this.lines = series.map(([, colour]) => {
      const area = svg("path", { class: `area is-${colour}` });
      const line = svg("path", { class: `line is-${colour}` });
      return { area, line };
    });
    this.moving = svg("g", {});
    this.moving.append(...this.lines.flatMap(({ area, line }) => [area, line]));
    this.svg.append(this.moving);
    this.cross = svg("line", { y1: 0, y2: 100, class: "at" });
    this.svg.append(this.cross);
    const plot = h("div", "plot", this.svg, this.most);
    this.element = h(
      "section",
      "card",
      h("div", "head", h("h3", "", title), this.when),
      h("div", "values", ...this.values),
      plot,
      h("div", "ago", h("span", "", "2 min ago"), h("span", "", "now")),
    );
    plot.addEventListener("pointermove", (event) => this.point(event));
    plot.addEventListener("pointerleave", () => this.point(null));
  }

  // values: one for each series; null where a line has a gap.
  push(at, values) {
    this.samples.push({ at, values });
    while (this.samples[0].at < at - WINDOW - 3) this.samples.shift();
    this.draw();
    const passed = this.samples.length > 1 ? Math.min(2, at - this.samples.at(-2).at) : 0;
    if (passed && !stillness.matches) {
      // What is new comes in from the right, at the pace at which time passes.
      const from = { transform: `translateX(${passed}px)` };
      this.moving.animate([from, { transform: "none" }], { duration: 1000 * passed });
    }
  }

  draw() {
    const now = this.samples.at(-1).at;
    const seen = this.samples.flatMap(({ values }) => values.filter((value) => value !== null));
    const top = nice(Math.max(this.least, ...seen));
    say(this.most, this.format(top));
    const x = (at) => WINDOW - (now - at);
    const y = (value) => 99 - (95 * value) / top;
    this.lines.forEach(({ line, area }, index) => {
      let path = "";
      let filled = "";
      let run = [];
      const end = () => {
        if (run.length > 1) {
          const drawn = run.map(([a, b]) => `${a.toFixed(2)} ${b.toFixed(2)}`).join("L");
          path += `M${drawn}`;
          filled += `M${run[0][0].toFixed(2)} 99L${drawn}L${run.at(-1)[0].toFixed(2)} 99Z`;
        }
        run = [];
      };
      for (const { at, values } of this.samples) {
        if (values[index] === null) end();
        else run.push([x(at), y(values[index])]);
      }
      end();
      line.setAttribute("d", path);
      area.setAttribute("d", filled);
    });
    if (!this.pointed) this.tell(this.samples.at(-1));
  }

  point(event) {
    this.pointed = event !== null && this.samples.length > 0;
    this.cross.style.visibility = this.pointed ? "visible" : "hidden";
    if (!this.samples.length) return;
    const now = this.samples.at(-1).at;
    if (!this.pointed) {
      this.tell(this.samples.at(-1));
      return;
    }
    const box = this.svg.getBoundingClientRect();
    const at = now - WINDOW * (1 - (event.clientX - box.left) / box.width);
    const distance = (sample) => Math.abs(sample.at - at);
    const nearest = this.samples.reduce((best, sample) => (distance(sample) < distance(best) ? sample : best));
    for (const end of ["x1", "x2"]) this.cross.setAttribute(end, WINDOW - (now - nearest.at));
    this.tell(nearest, `${Math.round(now - nearest.at)} s ago`);
  }

  tell({ values }, when = this.unit) {
    this.values.forEach((value, index) => say(value.firstChild, this.format(values[index])));
    say(this.when, when);
  }
}

// ---- One layer.

// Counters whose rates are drawn: title, and by label what is added up.
const RATES = [
  ["Sends", [["channels", "first", ["sends"]], ["groups", "second", ["group_sends"]]]],
  ["Deliveries", [["here", "first", ["deliveries"]]]],
  ["Drops", [["here", "bad", ["dropped", "expired"]], ["refused", "warm", ["channel_full", "over_capacity"]]]],
  ["Reconnects", [["connections", "warm", ["reconnects"]]]],
];

class Rates {
  constructor() {
    this.charts = RATES.map(([title, series]) => new Chart(title, series, { unit: "per second" }));
    this.element = h("div", "grid charts", ...this.charts.map((chart) => chart.element));
    this.last = null;
    this.lag = null;
  }

  push(at, process, stats) {
    const last = this.last;
    this.last = { at, process, stats };
    const isNext = last !== null && last.process === process && at > last.at;
    RATES.forEach(([, series], index) => {
      const rate = (names) => {
        const sum = (counters) => names.reduce((total, name) => total + (counters[name] ?? 0), 0);
        return Math.max(0, sum(stats) - sum(last.stats)) / (at - last.at);
      };
      this.charts[index].push(at, series.map(([, , names]) => (isNext ? rate(names) : null)));
    });
    this.pushLag(at, stats);
  }

  pushLag(at, stats) {
    const lags = lagOf(stats);
    if (lags === null) return;
    if (this.lag === null) {
      this.lag = new Chart("Lag", [["p50", "first"], ["p99", "second"]], { format: duration, least: 0.001 });
      this.element.append(this.lag.element);
    }
    this.lag.push(at, lags);
  }
}

// What stats() has of the time from a send to its receive, in seconds; null where it has none.
function lagOf({ lag }) {
  return lag === undefined ? null : [lag.p50, lag.p99];
}

class Shards {
  constructor() {
    this.element = h("div", "grid shards");
  }

  update(picture) {
    show(this.element, picture.shards, ({ shard }) => shard, () => new ShardCard().element, (element, shard) =>
      element.card.update(picture.at, shard),
    );
  }
}

class ShardCard {
  constructor() {
    this.title = h("h3");
    this.server = h("span", "soft");
    this.load = new Chart("", [["commands per second", "first"]], { least: 10 });
    this.facts = h("dl");
    this.chips = h("div", "chips");
    const [, values, plot, ago] = this.load.element.children;
    this.error = h("p", "empty");
    this.error.hidden = true;
    this.body = h("div", "inside", h("div", "", values, plot, ago), h("div", "", this.facts, this.chips));
    this.element = h("section", "card shard", h("div", "head", this.title, this.server), this.error, this.body);
    this.element.card = this;
    this.last = null;
  }

  update(at, shard) {
    say(this.title, `Shard ${shard.shard} · ${shard.host}`);
    this.body.hidden = shard.error !== null;
    this.error.hidden = shard.error === null;
    if (shard.error !== null) {
      say(this.server, "");
      say(this.error, "Not reachable.");
      this.last = null;
      return;
    }
    say(this.server, [shard.server, shard.version, shard.role].filter(Boolean).join(" "));
    const last = this.last;
    if (last === null || last.at < at) {
      this.last = { at, cpu: shard.cpu_seconds };
      this.load.push(at, [shard.operations_per_second]);
      this.cpu = last === null || shard.cpu_seconds === null || last.cpu === null ? null
        : Math.max(0, shard.cpu_seconds - last.cpu) / (at - last.at);
    }
    const limit = shard.max_memory;
    const facts = [
      { name: "Memory", text: size(shard.memory), more: limit ? ` of ${size(limit)}` : "", fill: limit ? shard.memory / limit : null },
      { name: "CPU", text: this.cpu === null ? "–" : `${(100 * this.cpu).toFixed(this.cpu < 0.1 ? 1 : 0)} %`, fill: this.cpu },
      { name: "Clients", text: number(shard.clients) },
      { name: "Keys", text: number(shard.keys) },
    ];
    if (shard.slots !== null) facts.push({ name: "Slots", text: number(shard.slots) });
    show(this.facts, facts, ({ name }) => name, makeFact, updateFact);
    const roles = Object.entries(shard.connections ?? {});
    show(this.chips, roles, ([role]) => role, ([role]) => h("span", "chip", `${role.replace(":", " ")} `, h("b")),
      (chip, [, count]) => say(chip.lastChild, number(count)));
  }
}

function makeFact({ name }) {
  return h("div", "", h("dt", "", name), h("dd", "", h("span"), h("span", "soft")), bar());
}

function updateFact(element, { text, more = "", fill = null }) {
  const [, told, track] = element.children;
  say(told.firstChild, text);
  say(told.lastChild, more);
  track.hidden = fill === null;
  if (fill !== null) fillUp(track, fill, true);
}

function bar() {
  return h("div", "bar", h("i"));
}

// isRated: whether a full bar is a bad sign.
function fillUp(track, fill, isRated) {
  track.className = isRated ? `bar ${fill >= 1 ? "full" : fill >= 0.75 ? "warm" : "ok"}` : "bar";
  track.firstChild.style.width = `${Math.min(100, 100 * fill).toFixed(1)}%`;
}

// A list whose rows have a name, a bar and a number: the largest first.
class List {
  constructor(title, empty) {
    this.sum = h("span", "soft");
    this.rows = h("ul", "rows");
    this.empty = h("p", "empty", empty);
    this.more = h("p", "more");
    this.element = h("section", "card", h("div", "head", h("h3", "", title), this.sum), this.rows, this.empty, this.more);
  }

  // rows: { name, shard, fill, isRated, count, hint }
  update(total, sum, rows) {
    this.rows.hidden = rows.length === 0;
    this.empty.hidden = rows.length > 0;
    say(this.sum, total ? sum : "");
    show(
      this.rows,
      rows,
      ({ shard, name }) => `${shard} ${name}`,
      ({ name }) => h("li", "row", h("span", "name", name), bar(), h("span", "count")),
      (element, row) => {
        const [name, track, count] = element.children;
        const title = row.hint ? `${row.name}\n${row.hint}` : row.name;
        if (name.title !== title) name.title = title;
        fillUp(track, row.fill, row.isRated ?? false);
        say(count, row.count);
      },
    );
    this.more.hidden = total <= rows.length;
    say(this.more, `and ${whole.format(total - rows.length)} more; channels-redis-fast inspect lists all`);
  }
}

class Layer {
  constructor({ alias, kind }) {
    this.kind = h("span", "tag");
    this.prefix = h("span", "tag");
    this.leases = h("span", "tag");
    this.looked = h("span", "soft");
    this.notes = h("ul", "notes");
    this.rates = new Rates();
    this.shards = new Shards();
    this.channels = new List("Channels, by how full they are", kind === "pubsub"
      ? "On this layer messages wait in the processes, not in Redis."
      : "No messages wait.");
    this.groups = new List("Groups, by size", "No groups.");
    this.presences = new List("Present users, by group", "Nobody is present.");
    this.histories = new List("Histories, by size", "No histories.");
    this.body = h("div", "", this.rates.element, this.shards.element,
      h("div", "lists", this.channels.element, this.groups.element, this.presences.element,
        this.histories.element));
    this.element = h("section", "layer",
      h("div", "title", h("h2", "", alias), this.kind, this.prefix, this.leases, this.looked), this.notes, this.body);
    this.element.layer = this;
  }

  update(frame, layer, isOfShownProcess) {
    const { kind, picture } = layer;
    this.body.hidden = this.prefix.hidden = kind === undefined;
    const { held, overdue } = picture?.leases ?? { held: 0, overdue: 0 };
    this.leases.hidden = held + overdue === 0;
    say(this.leases, `${counted(held, "process", "processes")} alive${overdue ? `, ${overdue} gone` : ""}`);
    say(this.kind, kind === "core" ? "core layer" : kind === "pubsub" ? "Pub/Sub layer" : "not of this package");
    say(this.prefix, `prefix ${layer.prefix}`);
    const notes = picture?.notes ?? [];
    const own = layer.error ?? (layer.backend && `${layer.backend} is no layer of channels_redis_fast.`);
    show(this.notes, own ? [{ level: "warn", text: own }, ...notes] : notes, ({ text }) => text,
      ({ level, text }) => h("li", `note ${level}`, text), () => {});
    if (kind === undefined) return;
    if (isOfShownProcess) this.rates.push(frame.at, frame.process, layer.stats);
    if (picture === null) {
      say(this.looked, "looking for the first time");
      return;
    }
    const age = frame.at - picture.at;
    say(this.looked, `surveyed in ${duration(picture.seconds)}${age < 2.5 ? "" : `, ${duration(age)} ago`}`);
    this.shards.update(picture);
    this.updateLists(kind, picture);
  }

  updateLists(kind, { channels, groups, presences, histories, subscribed_channels: subscribed }) {
    this.channels.update(
      channels.total || subscribed,
      kind === "pubsub" ? counted(subscribed, "subscribed channel")
        : `${counted(channels.messages, "message")} on ${counted(channels.total, "channel")}${channels.full ? `, ${channels.full} full` : ""}`,
      channels.rows.map((row) => ({
        ...row,
        isRated: true,
        count: `${number(row.waiting)} of ${number(row.capacity)}`,
        hint: `oldest ${duration(row.oldest)}, ${size(row.bytes)}, shard ${row.shard}`,
      })),
    );
    this.channels.more.hidden ||= kind === "pubsub";
    const largest = Math.max(1, ...groups.rows.map(({ members }) => members ?? 0));
    const member = kind === "core" ? "member" : "connection";
    this.groups.update(
      groups.total,
      `${counted(groups.members, member)} in ${counted(groups.total, "group")}`,
      groups.rows.map((row) => ({
        ...row,
        fill: (row.members ?? 0) / largest,
        count: row.members === null ? "–" : counted(row.members, member),
        hint: `shard ${row.shard}`,
      })),
    );
    const most = Math.max(1, ...presences.rows.map(({ users }) => users ?? 0));
    this.presences.element.hidden = presences.total === 0;
    this.presences.update(
      presences.total,
      `${counted(presences.users, "user")} in ${counted(presences.total, "group")}`,
      presences.rows.map((row) => ({
        ...row,
        fill: (row.users ?? 0) / most,
        count: row.users === null ? "–" : counted(row.users, "user"),
        hint: `shard ${row.shard}`,
      })),
    );
    const longest = Math.max(1, ...histories.rows.map(({ bytes }) => bytes ?? 0));
    this.histories.element.hidden = histories.total === 0;
    this.histories.update(
      histories.total,
      `${counted(histories.entries, "entry", "entries")}, ${size(histories.bytes)}`,
      histories.rows.map((row) => ({
        ...row,
        fill: (row.bytes ?? 0) / longest,
        count: row.entries === null ? "–" : counted(row.entries, "entry", "entries"),
        hint: `${size(row.bytes)}, oldest ${duration(row.oldest)}, shard ${row.shard}`,
      })),
    );
  }
}

// ---- Frames.

const layers = document.getElementById("layers");
const where = document.getElementById("where");
const state = document.getElementById("state");

// Polls may be answered by one process or another; the rates of one are shown, for as long as it answers.
let shown = { process: null, at: 0 };

function draw(frame) {
  if (frame.process === shown.process || frame.at - shown.at > 10 * frame.interval) shown = { process: frame.process, at: frame.at };
  const isShown = frame.process === shown.process;
  if (isShown) shown.at = frame.at;
  say(where, `process ${shown.process.split(":").at(-1)} on ${shown.process.split(":")[0]}`);
  show(layers, frame.layers, ({ alias, kind }) => `${alias} ${kind}`, (layer) => new Layer(layer).element,
    (element, layer) => element.layer.update(frame, layer, isShown));
}

function tell(name, text) {
  state.dataset.state = name;
  say(state, text);
}

// A socket where there is one, and questions until it gives frames. Nothing while nobody can see the page.
const addresses = document.body.dataset;
let socket = null;
let lastFrame = 0;
let isPolling = false;
let hiddenSince = null;
let isRefused = false;
let timer;

const isAsleep = () => hiddenSince !== null && Date.now() - hiddenSince > UNSEEN * 1000;
const isFed = () => socket?.readyState === WebSocket.OPEN && Date.now() - lastFrame < QUIET * 1000;

function connect() {
  clearTimeout(timer);
  if (isAsleep() || isRefused) {
    socket = null;
    return;
  }
  const address = new URL(addresses.socket, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const mine = (socket = new WebSocket(address));
  let hasGiven = false;
  mine.onopen = () => {
    lastFrame = Date.now();
  };
  mine.onmessage = ({ data }) => {
    if (mine !== socket) return;
    hasGiven = true;
    lastFrame = Date.now();
    tell("live", "live");
    draw(JSON.parse(data));
  };
  mine.onclose = ({ code }) => {
    if (mine !== socket) return;
    // 4000: it is only to ask again whether this user may look. A site may have no socket at this address at all.
    timer = setTimeout(connect, code === 4000 ? 0 : hasGiven ? 500 + 1000 * Math.random() : 15000);
    poll();
  };
}

async function poll() {
  if (isPolling) return;
  isPolling = true;
  try {
    while (!isFed() && !isAsleep() && !isRefused) {
      let frame = null;
      try {
        const response = await fetch(addresses.frame, { signal: AbortSignal.timeout(8000), redirect: "error" });
        if (response.ok) frame = await response.json();
        else {
          const { error } = response.headers.get("content-type")?.includes("json") ? await response.json() : {};
          isRefused = response.status === 403;
          tell("lost", error ?? `the site answers ${response.status}`);
        }
      } catch {
        tell("lost", "the site does not answer");
      }
      if (isFed()) break;
      if (frame !== null) {
        tell("polling", "polling");
        draw(frame);
      }
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  } finally {
    isPolling = false;
  }
}

setInterval(() => {
  if (socket !== null && socket.readyState === WebSocket.OPEN && (isAsleep() || !isFed())) socket.close();
}, 1000);

document.addEventListener("visibilitychange", () => {
  const wasAsleep = isAsleep();
  hiddenSince = document.hidden ? Date.now() : null;
  if (wasAsleep && !document.hidden) {
    connect();
    poll();
  }
});

connect();
// What there is to see now, and not when a socket that no proxy passes has failed.
setTimeout(poll, 1500);
