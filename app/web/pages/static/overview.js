// Draws what /events tells, once a second. The page lists the newest users without this file.

const MIN_SPAN = 30;
const SHOWN_TICKS = 120;
const PLOT_HEIGHT = 40;
const RETRY_MS = 5_000;
const OUTCOMES = ["registered", "updated", "erased", "replayed", "rejected", "moved", "dead-letter"];
// Below which path proxies show the pages.
const AT = document.documentElement.dataset.at;
const SVG = "http://www.w3.org/2000/svg";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const ticks = [];
let shownUsers = "";

function make(tag, className, ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content);
  return element;
}

function number(value) {
  if (value === null || value === undefined) return "–";
  return value >= 1000 ? whole.format(value) : short.format(value);
}

function rateOf(tick, outcome) {
  return tick.outcomes_per_second[outcome] ?? 0;
}

// -- lines and bars

function roundTop(values) {
  const most = Math.max(...values.filter((value) => value !== null), 0);
  if (most === 0) return 1;
  const size = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * size).find((top) => top >= most);
}

// A plot that has just begun is as wide as half a minute, and grows to two.
function span(values) {
  return Math.max(values.length, MIN_SPAN) - 1;
}

function linePath(values, top) {
  const offset = span(values) + 1 - values.length;
  let isDown = false;
  let path = "";
  values.forEach((value, index) => {
    if (value !== null) {
      const place = `${offset + index},${(PLOT_HEIGHT * (1 - value / top)).toFixed(2)}`;
      // A value between two gaps is a dot: a line of no length, with round ends.
      path += isDown ? `L${place}` : `M${place}h0`;
    }
    isDown = value !== null;
  });
  return path;
}

function shape(tag, className, attributes) {
  const drawn = document.createElementNS(SVG, tag);
  drawn.setAttribute("class", className);
  for (const [name, value] of Object.entries(attributes)) drawn.setAttribute(name, value);
  return drawn;
}

function drawLines(plot, lines, unit) {
  const top = roundTop(lines.flatMap(({ values }) => values));
  const svg = plot.querySelector("svg");
  svg.setAttribute("viewBox", `0 -1 ${span(ticks)} ${PLOT_HEIGHT + 2}`);
  svg.replaceChildren(
    ...lines.map(({ series, values }) =>
      shape("path", `line series-${series}`, { d: linePath(values, top) }),
    ),
  );
  plot.querySelector(".plot-top").textContent = `${number(top)}${unit}`;
}

function drawBars(plot, values) {
  const top = roundTop(values);
  const svg = plot.querySelector("svg");
  svg.setAttribute("viewBox", `0 0 ${values.length} ${PLOT_HEIGHT}`);
  svg.replaceChildren(
    ...values.map((value, index) => {
      // An empty partition is a line at the bottom: it is there.
      const height = Math.max((PLOT_HEIGHT * value) / top, 0.75);
      const attributes = { x: index + 0.1, y: PLOT_HEIGHT - height, width: 0.8, height };
      return shape("rect", value ? "bar" : "bar bar-none", attributes);
    }),
  );
  plot.querySelector(".plot-top").textContent = number(top);
}

function lagByPartition(tick) {
  const lag = Array.from({ length: tick.partitions }, () => ({ records: 0, seconds: 0 }));
  for (const { partition, records, seconds } of tick.lag) {
    lag[partition].records += records;
    lag[partition].seconds = Math.max(lag[partition].seconds, seconds);
  }
  return lag;
}

// -- what is shown of a tick

function plotOf(name) {
  return document.querySelector(`[data-plot=${name}]`);
}

function showNow(name, text) {
  plotOf(name).querySelector(".plot-now").textContent = text;
}

function showWrites(tick) {
  const values = ticks.map((each) => each.writes_per_second.acknowledged ?? 0);
  drawLines(plotOf("writes"), [{ series: 0, values }], "");
  showNow("writes", number(values.at(-1)));
}

function showLatency(tick) {
  const lines = ["p50", "p99"].map((name, series) => ({
    series,
    values: ticks.map((each) => each.acknowledgement_ms?.[name] ?? null),
  }));
  drawLines(plotOf("latency"), lines, " ms");
  const now = tick.acknowledgement_ms;
  showNow("latency", now ? `${number(now.p50)} / ${number(now.p99)} ms` : "no writes");
}

function showOutcomes(tick) {
  const seen = OUTCOMES.filter((name) => tick.outcomes[name]);
  const lines = seen.map((name) => ({
    series: OUTCOMES.indexOf(name),
    values: ticks.map((each) => rateOf(each, name)),
  }));
  drawLines(plotOf("outcomes"), lines, "");
  showNow("outcomes", number(seen.reduce((sum, name) => sum + rateOf(tick, name), 0)));
  const keys = seen.map((name) => {
    const key = make("span", `key series-${OUTCOMES.indexOf(name)}`);
    return make("li", "", key, `${name} ${number(rateOf(tick, name))}`);
  });
  plotOf("outcomes").querySelector(".keys").replaceChildren(...keys);
}

// Not while a partition moves: then nobody knows.
function showUsers(tick) {
  if (tick.users !== null && plotOf("users")) showNow("users", whole.format(tick.users));
}

function showLag(tick) {
  const lag = lagByPartition(tick);
  drawBars(plotOf("lag"), lag.map(({ records }) => records));
  const records = lag.reduce((sum, each) => sum + each.records, 0);
  const seconds = Math.max(...lag.map((each) => each.seconds));
  showNow("lag", records ? `${number(records)}, ${number(seconds)} s` : "none");
}

function nameOf(url) {
  return url.replace(/^https?:\/\//, "");
}

function stateOf(worker, partition) {
  return ["owned", "recovering", "standby"].find((state) => worker[state].includes(partition));
}

const STATE_NAMES = { owned: "owner", recovering: "recovering", standby: "standby" };

function ownersRow(worker, partitions) {
  const row = make("tr", "");
  const head = make("th", "", nameOf(worker.url));
  head.scope = "row";
  row.append(head);
  for (const partition of partitions) {
    const state = stateOf(worker, partition);
    const cell = make("span", `cell ${state ? `cell-${state}` : ""}`);
    if (state) cell.append(make("span", "unseen", STATE_NAMES[state]));
    row.append(make("td", "", cell));
  }
  return row;
}

function showOwners(tick) {
  const partitions = [...Array(tick.partitions).keys()];
  const numbers = partitions.map((partition) => {
    const head = make("th", "", String(partition));
    head.scope = "col";
    return head;
  });
  const table = document.querySelector("#owners");
  table.tHead.replaceChildren(make("tr", "", make("th", "", "Worker"), ...numbers));
  const rows = tick.workers.map((worker) => ownersRow(worker, partitions));
  table.tBodies[0].replaceChildren(...rows);
  const missing = tick.unavailable.map((url) => `${nameOf(url)} does not answer.`);
  const ownerless = partitions.filter(
    (partition) => !tick.workers.some((worker) => worker.owned.includes(partition)),
  );
  if (ownerless.length) missing.push(`Nobody serves partitions ${ownerless.join(", ")} now.`);
  const note = document.querySelector("#owners-note");
  // Only what changes is announced.
  if (note.textContent !== missing.join(" ")) note.textContent = missing.join(" ");
  note.hidden = !missing.length;
}

function showTable(tick) {
  const rows = [
    ["Users", tick.users === null ? "not known now" : whole.format(tick.users)],
    ["Registrations a second", number(tick.writes_per_second.acknowledged ?? 0)],
    ["Acknowledged, median", `${number(tick.acknowledgement_ms?.p50)} ms`],
    ["Acknowledged, 99 of 100", `${number(tick.acknowledgement_ms?.p99)} ms`],
    ...OUTCOMES.map((name) => [
      `Outcome ${name}`,
      `${number(rateOf(tick, name))} a second, ${whole.format(tick.outcomes[name] ?? 0)} in all`,
    ]),
    ...lagByPartition(tick).map(({ records, seconds }, partition) => [
      `Lag of partition ${partition}`,
      `${whole.format(records)} records, ${number(seconds)} s`,
    ]),
  ].map(([name, value]) => {
    const head = make("th", "", name);
    head.scope = "row";
    return make("tr", "", head, make("td", "", value));
  });
  document.querySelector("#numbers").tBodies[0].replaceChildren(...rows);
}

function userRow(user) {
  const time = make("time", "", new Date(user.registered_at).toUTCString());
  time.dateTime = user.registered_at;
  time.dataset.relative = "";
  const id = make("span", "row-id", make("code", "id", make("bdi", "", user.id)));
  if (user.status !== "registered") id.append(" ", make("span", "badge", user.status));
  const name = make("span", "row-name", make("bdi", "", user.name));
  const link = make("a", "row", name, id, make("span", "row-time", time));
  link.href = AT + user.url;
  return make("li", "", link);
}

function showNewest(users) {
  const told = JSON.stringify(users);
  if (!users.length || told === shownUsers) return;
  shownUsers = told;
  const place = document.querySelector("#latest-users");
  const focused = place.contains(document.activeElement) && document.activeElement.href;
  const list = make("ol", "card rows", ...users.map(userRow));
  list.setAttribute("role", "list");
  place.replaceChildren(list);
  document.querySelector("#latest-count").textContent =
    users.length === 1 ? "The latest one" : `The latest ${users.length}, newest first`;
  showAges();
  if (focused) [...list.querySelectorAll("a")].find((link) => link.href === focused)?.focus();
}

function show(tick) {
  ticks.push(tick);
  if (ticks.length > SHOWN_TICKS) ticks.shift();
  showWrites(tick);
  showLatency(tick);
  showOutcomes(tick);
  showLag(tick);
  showUsers(tick);
  showOwners(tick);
  showTable(tick);
  showNewest(tick.newest);
}

// -- the connection

const liveState = document.querySelector("#live-state");
let events = null;

function say(state, isLive = false) {
  if (liveState.textContent !== state) liveState.textContent = state;
  liveState.classList.toggle("is-live", isLive);
}

function watch() {
  events?.close();
  events = new EventSource(`${AT}/events`);
  events.addEventListener("history", (event) => {
    ticks.splice(0, ticks.length, ...JSON.parse(event.data));
  });
  events.addEventListener("message", (event) => {
    say("Live", true);
    show(JSON.parse(event.data));
  });
  events.addEventListener("error", () => {
    say("Not connected, trying again");
    // The browser tries again by itself, unless it was refused.
    if (events.readyState === EventSource.CLOSED) setTimeout(watchIfSeen, RETRY_MS);
  });
}

// Who does not look needs no numbers, and leaves the place to others.
function watchIfSeen() {
  if (document.visibilityState === "visible") {
    if (events === null || events.readyState === EventSource.CLOSED) watch();
  } else {
    events?.close();
    events = null;
    say("Paused");
  }
}

document.querySelector("#live").hidden = false;
document.addEventListener("visibilitychange", watchIfSeen);
watchIfSeen();
