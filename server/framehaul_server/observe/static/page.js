"use strict";

// The live page: takes a snapshot a second from /events, and shows it. Names of tenants and models are others' words:
// they reach the page as text alone, never as markup.

const CAUSES = {
  "decode": "--decode",
  "device shared with others": "--shared",
  "copy": "--copy",
  "slots": "--slots",
  "network": "--network",
  "client's window": "--window",
  "client's encoder": "--encoder",
  "waiting for latents": "--latents",
  "idle": "--idle",
};
const STACKED = Object.keys(CAUSES).filter((cause) => cause !== "idle");
const SECONDS = 60;
const SILENT_MS = 5000;
const RATE_S = 10;

const at = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)} %`;
const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };
const rows = new Map();
let last = null; // the snapshot before this one

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function size(bytes) {
  for (const [unit, scale] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (bytes >= scale) return `${(bytes / scale).toFixed(bytes < 10 * scale ? 1 : 0)} ${unit}`;
  }
  return `${bytes} bytes`;
}

function duration(seconds) {
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

const rate = (value) => (value < 100 ? value.toFixed(1) : Math.round(value).toLocaleString("en"));

// Shares of causes, as a bar and in words

function inWords(shares) {
  return Object.entries(shares).filter(([, share]) => share >= 0.005)
    .map(([cause, share]) => `${cause} ${percent(share)}`).join(", ");
}

function drawBar(bar, shares) {
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", inWords(shares) || "nothing yet");
  const parts = Object.entries(shares).filter(([, share]) => share >= 0.005);
  while (bar.children.length > parts.length) bar.lastChild.remove();
  while (bar.children.length < parts.length) bar.append(make("i"));
  parts.forEach(([cause, share], index) => {
    const part = bar.children[index];
    part.style.flexGrow = share;
    part.style.setProperty("--c", `var(${CAUSES[cause] || "--idle"})`);
    part.title = `${cause} ${percent(share)}`;
  });
}

function drawLegend(list, entries) {
  while (list.children.length > entries.length) list.lastChild.remove();
  while (list.children.length < entries.length) list.append(make("li"));
  entries.forEach(([name, variable, value, kind], index) => {
    const item = list.children[index];
    item.className = kind || "";
    item.style.setProperty("--c", `var(${variable})`);
    const text = value === undefined ? name : `${name} `;
    if (item.dataset.text === `${text}${value}`) return;
    item.dataset.text = `${text}${value}`;
    item.replaceChildren(text);
    if (value !== undefined) item.append(make("b", "", value));
  });
}

function sentence(verdict) {
  const text = verdict ? verdict.text.replace(/^bound by idle, /, "idle, ") : "nothing to tell yet";
  return text[0].toUpperCase() + text.slice(1);
}

function showVerdict(verdict) {
  put(at("verdict"), sentence(verdict));
  put(at("advice"), verdict ? `${verdict.advice[0].toUpperCase()}${verdict.advice.slice(1)}.` : "");
  const shares = verdict ? verdict.shares : {};
  drawBar(at("shares"), shares);
  const told = Object.entries(shares).filter(([, share]) => share >= 0.005);
  drawLegend(at("shares-legend"), told.map(([cause, share]) => [cause, CAUSES[cause] || "--idle", percent(share)]));
}

// Numbers

function tile(id, big, of, sub, share) {
  const place = at(id).querySelector("dd");
  if (!place.children.length) {
    place.append(make("span", "big"), make("span", "sub"));
    place.firstChild.append(make("span"), make("small"));
    if (share !== undefined) {
      place.append(make("div", "meter"));
      place.lastChild.append(make("i"));
    }
  }
  const [first, second, meter] = place.children;
  put(first.children[0], big);
  put(first.children[1], of);
  put(second, sub);
  if (meter) drawMeter(meter, share);
}

function drawMeter(meter, share) {
  meter.firstChild.style.width = `${100 * Math.min(1, share || 0)}%`;
  meter.classList.toggle("full", share >= 1);
}

const shareOf = ({used, all}) => (all ? used / all : 0);

function showTiles(told) {
  const {kernels_busy: busy, frames_per_s: frames, places, queue, slots, inlet, memory} = told;
  tile("kernels", percent(busy.now), "", `last minute ${percent(busy.minute)}`, busy.now);
  tile("rate", rate(frames.now), "", `last minute ${rate(frames.minute)}`);
  tile("places", String(places.used), ` of ${places.all}`, "", shareOf(places));
  tile("queue", String(queue.used), ` of ${queue.all}`, "", shareOf(queue));
  tile("slots", String(slots.used), ` of ${slots.all}`, "hold chunks", shareOf(slots));
  tile("inlet", String(inlet.used), ` of ${inlet.all}`, "hold latents", shareOf(inlet));
  const [amount, unit] = size(memory.used).split(" ");
  const of = memory.all ? `of ${size(memory.all)}` : "no limit";
  tile("memory", amount, ` ${unit}`, told.parked ? `${of}, ${told.parked} parked` : of, shareOf(memory));
}

// The timeline

let plots = [];

function color(variable) {
  return getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
}

function plot(height, scale, series, extra) {
  const font = "12px system-ui, 'DejaVu Sans', sans-serif";
  const axis = {stroke: color("--soft"), font, grid: {stroke: color("--line"), width: 1}, ticks: {show: false}};
  const seconds = (_, values) => values.map((value) => (value === 0 ? "now" : `${value} s`));
  const options = {
    width: at("timeline").clientWidth || 600,
    height,
    pxAlign: true,
    legend: {show: false},
    cursor: {show: false},
    padding: [8, 16, 0, 0],
    scales: {x: {time: false, range: [1 - SECONDS, 0]}, y: scale},
    axes: [{...axis, size: 28, space: 70, values: seconds, grid: {show: false}}, {...axis, size: 58, ...extra}],
    series: [{}, ...series],
  };
  return new uPlot(options, [[], ...series.map(() => [])], at("timeline"));
}

function makePlots() {
  for (const each of plots) each.destroy();
  const areas = STACKED.map((cause) => ({fill: color(CAUSES[cause]), points: {show: false}, width: 0,
    paths: uPlot.paths.stepped({align: -1})})).reverse();
  const line = {stroke: color("--kernels"), width: 1.5, points: {show: false}, paths: uPlot.paths.stepped({align: -1})};
  const shares = (_, values) => values.map((value) => `${value} %`);
  const top = (_, __, most) => [0, Math.max(1, most * 1.1)];
  const frames = {...line, stroke: color("--latents"), fill: `${color("--latents")}33`};
  plots = [
    plot(210, {range: [0, 100]}, [...areas, line], {values: shares, splits: [0, 25, 50, 75, 100]}),
    plot(110, {range: top}, [frames], {space: 34}),
  ];
  plots[1].root.classList.add("second");
}

function showTimeline({causes, kernels_busy: busy, frames}) {
  const seconds = Array.from({length: SECONDS}, (_, index) => index + 1 - SECONDS);
  const sums = new Array(SECONDS).fill(0);
  const stacked = STACKED.map((cause) => sums.map((_, index) => {
    sums[index] += 100 * ((causes[cause] || [])[index] || 0);
    return Math.min(100, sums[index]);
  })).reverse(); // the highest is drawn first, and the others over it
  if (!plots.length) makePlots();
  plots[0].setData([seconds, ...stacked, busy.map((share) => 100 * share)]);
  plots[1].setData([seconds, frames]);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const present = STACKED.filter((cause) => causes[cause] && mean(causes[cause]) >= 0.0005);
  drawLegend(at("timeline-legend"), [
    ...present.map((cause) => [cause, CAUSES[cause]]), ["kernels busy", "--kernels", undefined, "line"],
    ["frames a second, below", "--latents", undefined, "line"],
  ]);
  const words = present.map((cause) => [cause, mean(causes[cause])]).sort((one, other) => other[1] - one[1]);
  at("timeline").setAttribute("aria-label", "What each of the last 60 seconds went to. On average: "
    + `${inWords(Object.fromEntries(words)) || "nothing"}; kernels busy ${percent(mean(busy))}; `
    + `${rate(mean(frames))} frames a second. The table below has the same.`);
  showTable(present, causes, busy, frames, mean);
}

function showTable(present, causes, busy, frames, mean) {
  const table = at("timeline-table");
  if (!table.closest("details").open) return;
  const tens = [...Array(SECONDS / 10).keys()].map((ten) => [10 * ten, 10 * ten + 10]);
  const head = make("tr");
  head.append(make("td"));
  for (const [from, to] of tens) {
    const cell = make("th", "", `${from - SECONDS} to ${to - SECONDS} s`);
    cell.scope = "col";
    head.append(cell);
  }
  table.tHead.replaceChildren(head);
  const line = (name, values, show) => {
    const row = make("tr"), title = make("th", "", name);
    title.scope = "row";
    row.append(title, ...tens.map(([from, to]) => make("td", "", show(mean(values.slice(from, to))))));
    return row;
  };
  const share = (value) => String(Math.round(100 * value));
  table.tBodies[0].replaceChildren(...present.map((cause) => line(cause, causes[cause], share)),
    line("kernels busy", busy, share), line("frames a second", frames, rate));
}

// Sessions

function showSessions(told) {
  const known = new Set(told.sessions.map((session) => session.number));
  for (const [number, row] of rows) {
    if (!known.has(number)) { row.remove(); rows.delete(number); }
  }
  const body = document.querySelector(".sessions tbody");
  for (const session of told.sessions) {
    if (!rows.has(session.number)) {
      rows.set(session.number, at("row").content.firstElementChild.cloneNode(true));
      body.append(rows.get(session.number));
    }
    showSession(rows.get(session.number), session, told.up_s);
  }
  const table = document.querySelector(".sessions");
  at("nobody").hidden = known.size > 0;
  table.hidden = known.size === 0;
  table.classList.toggle("no-pictures", !told.previews);
  const resting = told.places.used - known.size;
  put(at("sessions-label"), known.size ? `Sessions: ${known.size}${resting > 0 ? `, and ${resting} about to begin` : ""}` : "Sessions");
}

function showSession(row, session, up_s) {
  const part = (name) => row.querySelector(`.${name}`);
  const both = (name, main, sub) => { put(part(`${name} .main`), main); put(part(`${name} .sub`), sub); };
  put(part("nr"), String(session.number));
  part("nr").title = `request ${session.request_id}`;
  both("who", session.tenant ? `${session.tenant}, ${session.model}` : session.model,
    `${session.width}\u00d7${session.height} ${session.pixel_format}${session.priority ? `, priority ${session.priority}` : ""}`);
  both("frames", session.taken.toLocaleString("en"), `${session.latents.toLocaleString("en")} latents in`);
  const taken = row.taken = row.taken || []; // lately: frames come in chunks
  taken.push([up_s, session.taken]);
  while (taken[0][0] < up_s - RATE_S) taken.shift();
  const [since, first] = taken[0];
  put(part("rate"), up_s > since ? rate(Math.max(0, session.taken - first) / (up_s - since)) : "\u2013");
  put(part("window .main"), `${session.window.used} of ${session.window.all}`);
  drawMeter(part("window .meter"), shareOf(session.window));
  both("state", session.state, session.state === "detached" ? "waits for its client" : session.waiting_for);
  const verdict = session.verdict;
  put(part("bound .main"), verdict ? `${verdict.bound_by}, ${percent(verdict.share)}` : "\u2013");
  drawBar(part("bound .bar"), verdict ? verdict.shares : {});
  showPicture(row, session);
}

function showPicture(row, session) {
  const image = row.querySelector("img"), blank = row.querySelector(".blank");
  const shown = session.preview !== null;
  image.hidden = !shown;
  blank.hidden = shown;
  if (!shown || row.dataset.preview === String(session.preview)) return;
  row.dataset.preview = session.preview;
  image.onerror = () => { delete row.dataset.preview; image.hidden = true; blank.hidden = false; }; // asked for again
  image.alt = `Newest frame of session ${session.number}`;
  image.src = `previews/${session.number}.jpg?${session.preview}`;
}

// The connection

let heardAt = 0;

function link(state, text) {
  at("link").dataset.state = state;
  put(at("link"), text);
  document.querySelector("main").classList.toggle("stale", state === "lost");
}

function show(told) {
  if (last && told.up_s < last.up_s) { // another server: its sessions have the same numbers
    if (told.version !== last.version) location.reload();
    for (const row of rows.values()) row.remove();
    rows.clear();
  }
  const restarts = told.restarts ? `, restarted ${told.restarts} times` : "";
  put(at("server"), `${told.version} on ${told.device}, worker ${told.worker}${restarts}, up ${duration(told.up_s)}`);
  document.querySelector("main").hidden = false;
  showVerdict(told.verdict);
  showTiles(told);
  showTimeline(told.timeline);
  showSessions(told);
  last = told;
  document.title = told.verdict ? `${percent(told.kernels_busy.now)} busy \u2013 Framehaul` : "Framehaul";
}

function listen() {
  const source = new EventSource("events?previews");
  heardAt = performance.now();
  source.onmessage = (event) => {
    heardAt = performance.now();
    link("live", "live");
    show(JSON.parse(event.data));
  };
  const watch = setInterval(() => {
    if (performance.now() - heardAt < SILENT_MS && source.readyState !== EventSource.CLOSED) return;
    clearInterval(watch);
    source.close();
    link("lost", "no answer, trying again");
    setTimeout(listen, 1000);
  }, 1000);
  source.onerror = () => link("lost", "no answer, trying again");
}

function redraw() {
  if (!plots.length) return;
  const data = plots.map((each) => each.data);
  makePlots();
  plots.forEach((each, index) => each.setData(data[index]));
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
new ResizeObserver(() => {
  for (const each of plots) {
    if (each.width !== at("timeline").clientWidth) each.setSize({width: at("timeline").clientWidth, height: each.height});
  }
}).observe(at("timeline"));
document.querySelector("details").addEventListener("toggle", () => { if (last) showTimeline(last.timeline); });
listen();
