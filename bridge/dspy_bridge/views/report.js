"use strict";
// Draws the page from the block of data. Texts of a trace only ever become text nodes and attributes.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

// -- elements and words ---------------------------------------------------------------------------

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

const LOCALE = "en";
const count = (value) => (value == null ? "–" : value.toLocaleString(LOCALE));
const plural = (number, one) => `${count(number)} ${one}${number === 1 ? "" : "s"}`;
function time(ms) {
  if (ms == null) return "–";
  if (ms >= 3_600_000) return `${trim(ms / 3_600_000)} h`;
  if (ms >= 60_000) return `${trim(ms / 60_000)} min`;
  if (ms >= 1000) return `${trim(ms / 1000)} s`;
  return ms >= 1 || ms === 0 ? `${trim(ms)} ms` : `${trim(ms * 1000)} µs`;
}
const shortened = (text, fits) => (text.length > fits ? `${text.slice(0, Math.max(1, fits - 1))}…` : text);
const trim = (value) => String(Number(value >= 100 ? value.toFixed(0) : value.toPrecision(3)));
const mebibytes = (value) => (value == null ? "–" : `${value.toFixed(1)} MiB`);
const clock = (ms) => new Date(data.begin + ms).toISOString().replace("T", " ").replace("Z", " UTC");

/** Neighbouring sessions get hues far from each other. */
const hue = (session) => (session * 137.508 + 210) % 360;
function coloured(node, session) {
  if (session != null) node.style.setProperty("--hue", hue(session));
  return node;
}

/** Round steps so that about `wanted` of them cover `span`. */
function ticks(from, to, wanted, sizes = [1, 2, 5, 10]) {
  const rough = (to - from) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = sizes.find((size) => size * power >= rough) * power;
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to + step * 1e-9; at += step) found.push(at);
  return found;
}

// -- the tip: what is under the pointer or chosen with the keyboard ---------------------------------

const tip = byId("tip");
function showTip(lines, x, y) {
  const [title, ...rest] = lines;
  tip.replaceChildren(html("b", {}, title), ...rest.map((line) => html("div", {}, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${y + 18 + height > innerHeight ? Math.max(4, y - height - 12) : y + 18}px`;
}
const hideTip = () => { tip.hidden = true; };

// -- tables ---------------------------------------------------------------------------------------

const PLAIN = (value) => value;
const TABLES = {
  commands: [["command", PLAIN], ["requests", count], ["failed", count], ["p50", time], ["p90", time], ["p99", time],
    ["longest", time], ["waited p50", time], ["waited p99", time]],
  errors: [["code", PLAIN], ["requests", count], ["commands", PLAIN], ["sessions", PLAIN]],
  models: [["model", PLAIN], ["calls", count], ["failed", count], ["from the cache", count], ["tokens in", count],
    ["tokens out", count], ["p50", time], ["p99", time], ["time in all", time]],
  sessions: [["session", PLAIN], ["requests", count], ["failed", count], ["p50", time], ["p99", time], ["time at work", time],
    ["workers", count], ["crashes", count], ["recycles", count], ["hibernations", count], ["most memory", mebibytes]],
};
const ALARMS = new Set(["failed", "crashes"]);

function table(id, empty) {
  const columns = TABLES[id];
  const rows = data.tables[id];
  if (!rows.length) return byId(id).replaceChildren(html("p", { class: "empty" }, empty));
  const wordy = (column) => columns[column][1] === PLAIN;
  const body = html("tbody");
  const heads = columns.map(([title], column) => {
    const button = html("button", { type: "button" }, title);
    const head = html("th", { scope: "col", ...(wordy(column) ? { class: "words" } : {}) }, button);
    button.addEventListener("click", () => sort(column, head));
    return head;
  });
  function show() {
    body.replaceChildren(...rows.map((row) => html("tr", {}, ...row.map((value, column) => {
      const [title, words] = columns[column];
      const kind = wordy(column) ? "words" : ALARMS.has(title) && value ? "bad" : "";
      const text = words(value);
      return html("td", { class: kind, ...(column === 0 ? { title: text } : {}) }, text);
    }))));
  }
  function sort(column, head) {
    const descending = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : !wordy(column);
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const order = (a, b) => (wordy(column) ? a.localeCompare(b) : (a ?? -1) - (b ?? -1));
    rows.sort((a, b) => (descending ? -1 : 1) * order(a[column], b[column]));
    show();
  }
  heads[1].setAttribute("aria-sort", "descending");
  show();
  byId(id).replaceChildren(html("table", {}, html("thead", {}, html("tr", {}, ...heads)), body));
}

// -- charts ---------------------------------------------------------------------------------------

const MARGIN = { left: 54, right: 12, top: 10, bottom: 24 };

function frame(holder, height, title) {
  const width = Math.max(280, holder.clientWidth);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title }, svg("title", {}, title));
  return { root, width, inner: width - MARGIN.left - MARGIN.right, floor: height - MARGIN.bottom };
}

function verticalAxis(chart, top, words) {
  const scale = (value) => chart.floor - (value / (top || 1)) * (chart.floor - MARGIN.top);
  for (const at of ticks(0, top || 1, 4)) {
    chart.root.append(
      svg("line", { class: "grid", x1: MARGIN.left, x2: chart.width - MARGIN.right, y1: scale(at), y2: scale(at) }),
      svg("text", { class: "soft", x: MARGIN.left - 6, y: scale(at) + 4, "text-anchor": "end" }, words(at)),
    );
  }
  return scale;
}

function histogram() {
  const holder = byId("histogram");
  const bars = data.histogram;
  if (!bars.length) return holder.replaceChildren(html("p", { class: "empty" }, "No request has been answered yet."));
  const most = Math.max(...bars.map(([, , good, bad]) => good + bad));
  const chart = frame(holder, 220, `Histogram of latency: ${bars.length} bars, the highest of ${plural(most, "request")}`);
  const y = verticalAxis(chart, most, count);
  const step = Math.min(90, chart.inner / bars.length);
  const every = Math.ceil(46 / step);
  bars.forEach(([from, to, good, bad], number) => {
    const x = MARGIN.left + number * step;
    const told = [`${time(from)} to ${time(to)}`, plural(good + bad, "request"), ...(bad ? [`${count(bad)} failed`] : [])];
    const group = svg("g", { class: "bars", tabindex: "0", role: "img", "aria-label": told.join(", ") },
      svg("rect", { x, y: MARGIN.top, width: step, height: chart.floor - MARGIN.top, fill: "transparent" }),
      svg("rect", { class: "bar", x: x + 1, y: y(good), width: Math.max(1, step - 2), height: chart.floor - y(good) }),
      svg("rect", { class: "bar failed", x: x + 1, y: y(good + bad), width: Math.max(1, step - 2), height: y(good) - y(good + bad) }));
    group.addEventListener("pointermove", (event) => showTip(told, event.clientX, event.clientY));
    group.addEventListener("pointerleave", hideTip);
    group.addEventListener("focus", () => {
      const box = group.getBoundingClientRect();
      showTip(told, box.x + box.width / 2, box.y + 20);
    });
    group.addEventListener("blur", hideTip);
    chart.root.append(group);
    if (number % every === 0) chart.root.append(svg("text", { class: "soft", x, y: chart.floor + 16, "text-anchor": "middle" }, time(from)));
  });
  holder.replaceChildren(chart.root);
}

/** Lines over time that hold their value until the next point. `series`: {name, session, points}. */
function overTime(id, series, words, title, empty) {
  const holder = byId(id);
  if (!series.some((one) => one.points.length)) return holder.replaceChildren(html("p", { class: "empty" }, empty));
  const top = Math.max(...series.flatMap((one) => one.points.map(([, value]) => value)));
  const chart = frame(holder, 220, `${title}; the highest is ${words(top)}`);
  const x = (at) => MARGIN.left + (at / (data.span || 1)) * chart.inner;
  const y = verticalAxis(chart, top, (value) => trim(value));
  for (const at of ticks(0, data.span, 5))
    chart.root.append(svg("text", { class: "soft", x: x(at), y: chart.floor + 16, "text-anchor": "middle" }, time(at)));
  for (const one of series) {
    let path = "";
    for (const [at, value] of one.points) path += path ? `H${x(at).toFixed(1)}V${y(value).toFixed(1)}` : `M${x(at).toFixed(1)},${y(value).toFixed(1)}`;
    chart.root.append(coloured(svg("path", { class: "series", d: `${path}H${x(data.span).toFixed(1)}` }), one.session));
  }
  const cursor = svg("line", { class: "cursor", y1: MARGIN.top, y2: chart.floor, visibility: "hidden" });
  chart.root.append(cursor);
  chart.root.setAttribute("tabindex", "0");
  let moment = 0;
  function point(at) {
    moment = Math.max(0, Math.min(data.span, at));
    fill(cursor, { x1: x(moment), x2: x(moment), visibility: "visible" }, []);
    const values = series.map((one) => [one.name, one.points.findLast(([when]) => when <= moment)?.[1]]).filter(([, value]) => value != null);
    const box = chart.root.getBoundingClientRect();
    const lines = values.sort((a, b) => b[1] - a[1]).slice(0, 8).map(([name, value]) => (name ? `${name}: ${words(value)}` : words(value)));
    showTip([`at ${time(moment)}`, ...lines], box.x + (x(moment) / chart.width) * box.width, box.y + 40);
  }
  function leave() {
    cursor.setAttribute("visibility", "hidden");
    hideTip();
  }
  chart.root.addEventListener("pointermove", (event) => {
    const box = chart.root.getBoundingClientRect();
    point((((event.clientX - box.x) / box.width) * chart.width - MARGIN.left) / chart.inner * data.span);
  });
  chart.root.addEventListener("pointerleave", leave);
  chart.root.addEventListener("blur", leave);
  chart.root.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    point(moment + (step * data.span) / 50);
  });
  holder.replaceChildren(chart.root);
  if (series.length > 1 || series[0].name) {
    holder.append(html("div", { class: "legend" }, ...series.map((one) => html("span", { title: one.name },
      coloured(svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, svg("rect", { class: "swatch", y: 5, width: 14, height: 4 })), one.session), one.name))));
  }
}

// -- the timeline ---------------------------------------------------------------------------------

const ROW = 26;
const MORE = 100;
const SHAPES = {
  crashed: "M-5,-5L5,5M-5,5L5,-5",
  recycled: "M4.5,-2.5A5,5 0 1 0 5,1.5M5,-6V-2H1",
  hibernated: "M2,-5.5A6,6 0 1 0 5.5,3A5,5 0 0 1 2,-5.5Z",
};

const timeline = {
  rows: Math.min(MORE, data.workers.length),
  from: 0,
  to: data.span || 1,
  /** The row chosen with the keyboard, and the number of what is chosen in it. */
  row: -1,
  item: 0,
};

/** What a row holds in the order of time, for the keyboard. */
function items(worker) {
  worker.items ??= [
    ...worker.stages.map((stage) => ({ at: stage[0], took: stage[1], told: () => toldStage(worker, stage) })),
    ...worker.requests.map((request) => ({ at: request[0], took: request[1], told: () => toldRequest(request) })),
    ...worker.marks.map((mark) => ({ at: mark[0], took: 0, told: () => toldMark(mark) })),
  ].sort((a, b) => a.at - b.at);
  return worker.items;
}

const workerName = (worker) => (worker.pid == null ? "no worker" : String(worker.pid));
function toldStage(worker, [at, took, name, session, end, running]) {
  const lasted = running ? `for ${time(took)} so far` : `for ${time(took)}`;
  return [session == null ? name : `session ${data.sessions[session]}`, `worker ${workerName(worker)}, ${lasted}`,
    `from ${time(at)} (${clock(at)})`, ...(end ? [`ended: ${end}`] : [])];
}
function toldRequest([at, took, , command, session, outcome, queued, number, calls, callsTook]) {
  return [`${data.commands[command]}: ${data.outcomes[outcome]}`, `${time(took)}${queued ? `, after ${time(queued)} in the queue` : ""}`,
    `session ${data.sessions[session]}${number == null ? "" : `, request ${number}`}`, `at ${time(at)} (${clock(at)})`,
    ...(calls ? [`${plural(calls, "call")} to models, ${time(callsTook)}`] : [])];
}
const toldMark = ([at, kind, session]) => [kind, `session ${data.sessions[session]}`, `at ${time(at)} (${clock(at)})`];

function geometry() {
  const width = Math.max(320, byId("timeline").clientWidth);
  const left = width < 620 ? 104 : 168;
  const inner = width - left - 10;
  const scale = inner / (timeline.to - timeline.from);
  return { width, left, right: width - 10, x: (at) => left + (at - timeline.from) * scale, at: (x) => timeline.from + (x - left) / scale };
}

/** Rectangles of one row as one path; those that would touch are drawn as one. */
function path(requests, lanes, top, { x, left, right }, failed) {
  const height = (ROW - 10) / lanes;
  const ends = new Array(lanes).fill(null);
  let d = "";
  const flush = (lane) => {
    const [from, to] = ends[lane];
    d += `M${from.toFixed(1)},${(top + 5 + lane * height).toFixed(1)}h${Math.max(1.2, to - from).toFixed(1)}v${(height - (lanes > 1 ? 0.6 : 0)).toFixed(1)}H${from.toFixed(1)}Z`;
  };
  for (const [at, took, number, , , outcome] of requests) {
    if ((outcome !== 0) !== failed) continue;
    const from = Math.max(left, x(at));
    const to = Math.min(right, x(at + took));
    if (to < left || from > right) continue;
    const lane = (number - 1) % lanes;
    const open = ends[lane];
    if (open && from - open[1] < 0.7) {
      open[1] = Math.max(open[1], to);
    } else {
      if (open) flush(lane);
      ends[lane] = [from, to];
    }
  }
  ends.forEach((open, lane) => open && flush(lane));
  return d;
}

function lanesOf(worker) {
  worker.lanes ??= Math.min(6, Math.max(1, ...worker.requests.map((request) => request[2])));
  return worker.lanes;
}

function drawRow(worker, number, space) {
  const top = number * ROW;
  const { x, left, right } = space;
  const served = [...new Set(worker.stages.filter((stage) => stage[3] != null).map((stage) => data.sessions[stage[3]]))];
  const told = [`worker ${workerName(worker)}`, ...served.map((name) => `session ${name}`), plural(worker.served, "request"), ...worker.marks.map(([, kind]) => kind)].join(", ");
  const group = svg("g", { class: "worker", "data-row": number, role: "img", "aria-label": told },
    svg("line", { class: "row-line", x1: 0, x2: right, y1: top + ROW, y2: top + ROW }),
    svg("text", { class: "soft", x: left - 8, y: top + 17, "text-anchor": "end" }, workerName(worker)),
    svg("text", { x: 2, y: top + 17 }, shortened(served.join(", ") || worker.stages.at(-1)?.[2] || "", (left - 60) / 6.6)));
  for (const [at, took, name, session] of worker.stages) {
    const from = Math.max(left, x(at));
    const to = Math.min(right, x(at + took));
    if (to < left || from > right) continue;
    const kind = session == null ? name : "session";
    group.append(coloured(svg("rect", { class: `stage ${kind}`, x: from, y: top + 2, width: Math.max(1, to - from), height: ROW - 4, rx: 2 }), session));
  }
  const lanes = lanesOf(worker);
  for (const failed of [false, true]) {
    const d = path(worker.requests, lanes, top, space, failed);
    if (d) group.append(svg("path", { class: failed ? "requests failed" : "requests", d }));
  }
  for (const [at, kind] of worker.marks) {
    if (x(at) < left || x(at) > right) continue;
    for (const style of ["halo", kind]) {
      group.append(svg("path", { class: `mark ${style}`, d: SHAPES[kind], transform: `translate(${x(at)},${top + ROW / 2})` }));
    }
  }
  return group;
}

function drawTimeline() {
  const holder = byId("timeline");
  const space = geometry();
  const bar = svg("svg", { class: "axis", viewBox: `0 0 ${space.width} 22`, "aria-hidden": "true" });
  for (const at of ticks(timeline.from, timeline.to, Math.max(2, space.width / 130))) {
    if (space.x(at) > space.right - 20) continue;
    bar.append(svg("line", { x1: space.x(at), x2: space.x(at), y1: 16, y2: 22 }),
      svg("text", { class: "soft", x: space.x(at), y: 12, "text-anchor": "middle" }, time(Math.abs(at) < 1e-9 ? 0 : at)));
  }
  const height = timeline.rows * ROW + 2;
  const rows = svg("svg", { class: "rows", viewBox: `0 0 ${space.width} ${height}` });
  for (const at of ticks(timeline.from, timeline.to, Math.max(2, space.width / 130)))
    rows.append(svg("line", { class: "grid", x1: space.x(at), x2: space.x(at), y1: 0, y2: height }));
  data.workers.slice(0, timeline.rows).forEach((worker, number) => rows.append(drawRow(worker, number, space)));
  const chosen = data.workers[timeline.row] && items(data.workers[timeline.row])[timeline.item];
  if (chosen) {
    const from = Math.max(space.left, space.x(chosen.at));
    const to = Math.min(space.right, space.x(chosen.at + chosen.took));
    rows.append(svg("rect", { class: "chosen", x: from - 3, y: timeline.row * ROW + 1, width: Math.max(6, to - from + 6), height: ROW - 2, rx: 3 }));
  }
  holder.replaceChildren(html("div", { class: "axis-bar" }, bar), rows);
  const left = data.workers.length - timeline.rows;
  byId("more-workers").hidden = left <= 0;
  byId("more-workers").textContent = `Show ${count(Math.min(MORE, left))} more of ${plural(data.workers.length, "worker")}`;
}

/** Show from `from` to `to`, kept within the trace. */
function view(from, to) {
  const whole = data.span || 1;
  const width = Math.min(whole, Math.max(whole / 1e6, 0.01, to - from));
  timeline.from = Math.max(0, Math.min(whole - width, from));
  timeline.to = timeline.from + width;
  drawTimeline();
}
function zoom(factor, at = (timeline.from + timeline.to) / 2) {
  view(at - (at - timeline.from) * factor, at + (timeline.to - at) * factor);
}
const pan = (share) => view(timeline.from + share * (timeline.to - timeline.from), timeline.to + share * (timeline.to - timeline.from));

/** What is drawn at a place of the window: a mark before a request before a stage. */
function under(event) {
  const rows = byId("timeline").querySelector(".rows");
  const box = rows.getBoundingClientRect();
  const space = geometry();
  const stretch = space.width / box.width;
  const worker = data.workers[Math.floor(((event.clientY - box.y) * stretch) / ROW)];
  const x = (event.clientX - box.x) * stretch;
  if (!worker || x < space.left || event.clientY < box.y) return null;
  const near = (at, took, slack) => x >= space.x(at) - slack && x <= space.x(at + took) + slack;
  const mark = worker.marks.find(([at]) => near(at, 0, 7));
  if (mark) return toldMark(mark);
  const lanes = lanesOf(worker);
  const depth = (((event.clientY - box.y) * stretch) % ROW - 5) / ((ROW - 10) / lanes);
  const touched = worker.requests.filter((request) => near(request[0], request[1], 1.5) && Math.abs((request[2] - 1) % lanes + 0.5 - depth) <= 1);
  if (touched.length === 1) return toldRequest(touched[0]);
  if (touched.length > 1) {
    const failed = touched.filter((request) => request[5] !== 0).length;
    const longest = touched.reduce((a, b) => (b[1] > a[1] ? b : a));
    return [`${plural(touched.length, "request")} here${failed ? `, ${count(failed)} failed` : ""}`, "zoom in to tell them apart; the longest:", ...toldRequest(longest)];
  }
  const stage = worker.stages.find(([at, took]) => near(at, took, 1));
  return stage ? toldStage(worker, stage) : null;
}

function choose(row, item) {
  timeline.row = Math.max(0, Math.min(timeline.rows - 1, row));
  const held = items(data.workers[timeline.row]);
  timeline.item = Math.max(0, Math.min(held.length - 1, item));
  const one = held[timeline.item];
  if (!one) return drawTimeline();
  if (one.at < timeline.from || one.at > timeline.to) view(one.at - (timeline.to - timeline.from) / 2, one.at + (timeline.to - timeline.from) / 2);
  else drawTimeline();
  const box = byId("timeline").querySelector(".chosen").getBoundingClientRect();
  const lines = one.told();
  showTip(lines, box.x + Math.min(box.width, 60), box.y + ROW / 2);
  byId("spoken").textContent = lines.join(", ");
}

/** The item of a row that is nearest to a moment. */
function nearest(row, at) {
  const held = items(data.workers[Math.max(0, Math.min(timeline.rows - 1, row))]);
  return held.reduce((best, one, number) => (Math.abs(one.at - at) < Math.abs(held[best].at - at) ? number : best), 0);
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const begun = timeline.row >= 0;
  const at = begun ? items(data.workers[timeline.row])[timeline.item]?.at ?? 0 : timeline.from;
  const shifted = { ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2) };
  const plain = {
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), "0": () => view(0, data.span || 1), Escape: hideTip,
    ArrowDown: () => choose(timeline.row + 1, nearest(timeline.row + 1, at)),
    ArrowUp: () => choose(timeline.row - 1, nearest(timeline.row - 1, at)),
    ArrowRight: () => (begun ? choose(timeline.row, timeline.item + 1) : choose(0, 0)),
    ArrowLeft: () => (begun ? choose(timeline.row, timeline.item - 1) : choose(0, 0)),
  };
  const action = (event.shiftKey && shifted[event.key]) || plain[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function watch(holder) {
  let grabbed = null;
  holder.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    grabbed = { x: event.clientX, from: timeline.from, to: timeline.to };
    holder.setPointerCapture(event.pointerId);
  });
  holder.addEventListener("pointermove", (event) => {
    if (grabbed) {
      const space = geometry();
      const moved = space.at(grabbed.x) - space.at(event.clientX);
      holder.classList.add("moving");
      hideTip();
      view(grabbed.from + moved, grabbed.to + moved);
      return;
    }
    const told = under(event);
    if (told) showTip(told, event.clientX, event.clientY);
    else hideTip();
  });
  const release = () => {
    grabbed = null;
    holder.classList.remove("moving");
  };
  holder.addEventListener("pointerup", release);
  holder.addEventListener("pointercancel", release);
  holder.addEventListener("pointerleave", hideTip);
  holder.addEventListener("blur", hideTip);
  holder.addEventListener("keydown", key);
  holder.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      const box = holder.getBoundingClientRect();
      zoom(1.0015 ** event.deltaY, geometry().at(event.clientX - box.x));
    } else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      pan(event.deltaX / 1000);
    }
  }, { passive: false });
  byId("zoom-in").addEventListener("click", () => zoom(0.5));
  byId("zoom-out").addEventListener("click", () => zoom(2));
  byId("zoom-all").addEventListener("click", () => view(0, data.span || 1));
  byId("more-workers").addEventListener("click", () => {
    timeline.rows = Math.min(data.workers.length, timeline.rows + MORE);
    drawTimeline();
  });
}

function legend() {
  const sign = (...children) => svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, ...children);
  const box = (kind) => sign(coloured(svg("rect", { class: kind, width: 14, height: 14, rx: 2 }), 0));
  const mark = (kind) => sign(svg("path", { class: `mark ${kind}`, d: SHAPES[kind], transform: "translate(7,7)" }));
  const entries = [[box("stage starting"), "starting"], [box("stage spare"), "spare"], [box("stage"), "a session, each of its own colour"],
    [box("requests"), "requests"], [box("requests failed"), "failed"], ...Object.keys(SHAPES).map((kind) => [mark(kind), kind])];
  byId("legend").replaceChildren(...entries.map(([picture, words]) => html("span", {}, picture, words)));
}

// -- all of it ------------------------------------------------------------------------------------

function drawCharts() {
  histogram();
  overTime("waiting", [{ name: "", session: 0, points: data.waiting }], (value) => plural(value, "request"), "Requests that wait, over time", "None has waited.");
  const held = data.memory.map(({ session, points }) => ({ name: data.sessions[session], session, points }));
  const moving = held.some(({ points }) => points.length > 1) ? held : [];
  overTime("memory", moving, mebibytes, "Memory of sessions over time", "Only a trace file has memory over time; the latest figures are in the table of sessions.");
}

function drawAll() {
  const { server_version: version, boot_id: boot } = data.about;
  byId("about").textContent = [data.source, version && `version ${version}`, boot && `boot ${boot}`,
    `${clock(0)}, ${time(data.span)}`, plural(data.events, "event")].filter(Boolean).join(" · ");
  byId("made").textContent = `Made ${new Date(data.made).toISOString().replace("T", " ").slice(0, 19)} UTC by bridge-cli report.`;
  byId("notes").hidden = !data.notes.length;
  byId("notes").replaceChildren(...data.notes.map((note) => html("li", {}, note)));
  byId("summary").replaceChildren(...data.summary.map(([label, figure, about]) =>
    html("div", {}, html("dt", {}, label), html("dd", {}, figure), html("dd", {}, about))));
  byId("now").hidden = !data.now.length;
  byId("now").replaceChildren(...data.now.map(([label, figure]) => html("div", {}, html("dt", {}, label), html("dd", {}, figure))));
  table("commands", "No requests.");
  table("errors", "No request has failed.");
  table("sessions", "No sessions.");
  byId("models-section").hidden = !data.tables.models.length;
  if (data.tables.models.length) table("models", "");
  legend();
  watch(byId("timeline"));
  drawTimeline();
  drawCharts();
}

drawAll();
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  drawTimeline();
  drawCharts();
});
document.documentElement.dataset.drawn = "true";
