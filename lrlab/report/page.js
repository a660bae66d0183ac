(() => {
"use strict";
const root = document.documentElement;
root.classList.add("js");
const one = (query, within = document) => within.querySelector(query);
const all = (query, within = document) => [...within.querySelectorAll(query)];

const data = JSON.parse(one("#curves").textContent);
const runs = data.runs;
const count = runs.length;
const index = new Map(runs.map((run, i) => [run.run, i]));

// --- the table -----------------------------------------------------------------------------------

const table = one("#verdicts");
const rows = all("tbody", table).map((element) => ({
  element,
  run: element.dataset.run,
  box: one("input", element),
  swatch: one(".swatch", element),
  outcome: element.dataset.outcome,
  cells: element.rows[0].cells,
  text: all("th, td", element).map((cell) => cell.textContent).join(" ").toLowerCase(),
}));
const rowOf = runs.map((run) => rows.find((row) => row.run === run.run));
const isShown = (i) => rowOf[i].box.checked && !rowOf[i].element.hidden;

const heads = all("#verdicts thead th");
for (const [column, head] of heads.entries()) {
  const button = one("button", head);
  if (!button) continue;
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) if (one("button", other)) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    sort(column, "numeric" in head.dataset, down ? -1 : 1);
  });
}

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

function sort(column, numeric, sign) {
  const key = (row) => {
    const cell = row.cells[column];
    if (!numeric) return cell.textContent;
    const told = cell.dataset.v; // as Python writes floats
    return told === "" ? NaN : told === "inf" ? Infinity : told === "-inf" ? -Infinity : Number(told);
  };
  const keyed = rows.map((row) => [key(row), row]);
  keyed.sort(([a], [b]) => {
    if (!numeric) return sign * collator.compare(a, b);
    // Missing values come last in both directions.
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a === b ? 0 : sign * (a < b ? -1 : 1);
  });
  table.append(...keyed.map(([, row]) => row.element));
}

const search = one("#search");
const selects = all(".filters select");
const outcomes = all(".filters .chip");

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = outcomes.filter((chip) => chip.ariaPressed === "true");
  const names = new Set(chosen.map((chip) => chip.dataset.outcome));
  let left = 0;
  for (const row of rows) {
    const passes =
      words.every((word) => row.text.includes(word)) &&
      (!names.size || names.has(row.outcome)) &&
      selects.every((s) => !s.value || row.element.getAttribute("data-s" + s.dataset.setting) === s.value);
    row.element.hidden = !passes;
    left += passes;
  }
  one("#count").textContent =
    left === rows.length ? `${left} runs` : `${left} of ${rows.length} runs, in the chart too`;
  refresh();
}

search.addEventListener("input", filter);
for (const select of selects) select.addEventListener("change", filter);
for (const chip of outcomes) {
  chip.addEventListener("click", () => {
    chip.ariaPressed = String(chip.ariaPressed !== "true");
    filter();
  });
}

table.addEventListener("change", refresh);
table.addEventListener("click", (event) => {
  const run = event.target.closest("tbody");
  if (!run || event.target.closest("input, button, a") || String(getSelection())) return;
  const box = one("input", run);
  if (box.disabled) return;
  box.checked = !box.checked;
  refresh();
});
table.addEventListener("keydown", (event) => {
  const way = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  if (!way || event.target.type !== "checkbox") return;
  let row = event.target.closest("tbody")[way];
  while (row && row.hidden) row = row[way];
  if (!row) return;
  event.preventDefault();
  one("input", row).focus();
});

// --- copies and large pictures -------------------------------------------------------------------

for (const button of all(".copy")) {
  button.addEventListener("click", async () => {
    const code = one("code", button.parentElement);
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
}

const large = one("#large");
if (large) {
  for (const button of all(".enlarge")) {
    button.addEventListener("click", () => {
      const from = one("img", button);
      const to = one("img", large);
      to.src = from.src;
      to.alt = from.alt;
      large.showModal();
    });
  }
  large.addEventListener("click", () => large.close());
}

// --- colours -------------------------------------------------------------------------------------

// Matplotlib's plasma; each theme takes the part that contrasts with its background.
const PLASMA = [
  [13, 8, 135], [65, 4, 157], [106, 0, 168], [143, 13, 164], [177, 42, 144], [204, 71, 120],
  [225, 100, 98], [242, 132, 75], [252, 166, 54], [252, 206, 37], [240, 249, 33],
];
const HUES = {
  light: ["#0072b2", "#d55e00", "#00805e", "#b0578d", "#3f97c9", "#a87600", "#111111"],
  dark: ["#56b4e9", "#ff8b4a", "#2fc79b", "#e38ec0", "#9fd3f2", "#e6b04a", "#f2f2f2"],
};
const darkness = matchMedia("screen and (prefers-color-scheme: dark)");
const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

function plasma(share) {
  const [from, to] = darkness.matches ? [0.3, 1] : [0, 0.72];
  const at = (from + (to - from) * share) * (PLASMA.length - 1);
  const i = Math.min(Math.floor(at), PLASMA.length - 2);
  const mixed = PLASMA[i].map((low, k) => Math.round(low + (PLASMA[i + 1][k] - low) * (at - i)));
  return `rgb(${mixed})`;
}

const lrs = [...new Set(runs.map((run) => run.lr).filter((lr) => lr > 0))].sort((a, b) => a - b);
const logs = [Math.log(lrs[0]), Math.log(lrs[lrs.length - 1])];

function lrColour(lr) {
  if (!(lr > 0)) return css("--soft");
  return plasma(lrs.length < 2 ? 0.4 : (Math.log(lr) - logs[0]) / (logs[1] - logs[0]));
}

const chosen = (name) => (one(`input[name=${name}]:checked`) || {}).value;
const shortLr = (lr) => (lr === null ? "–" : String(Number(lr.toPrecision(4))));

// Returns the groups by which runs are coloured and switched: name, colour, runs.
function groups() {
  const by = chosen("by");
  const name = (run) =>
    by === "lr" ? shortLr(run.lr) : by === "outcome" ? run.outcome : run.settings[Number(by)];
  const found = new Map();
  for (const [i, run] of runs.entries()) {
    if (!found.has(name(run))) found.set(name(run), []);
    found.get(name(run)).push(i);
  }
  const sorted = [...found].sort(([a, i], [b, k]) =>
    by === "lr" ? runs[i[0]].lr - runs[k[0]].lr
    : by === "outcome" ? data.outcomes.indexOf(a) - data.outcomes.indexOf(b)
    : collator.compare(a, b));
  const hues = HUES[darkness.matches ? "dark" : "light"];
  const many = sorted.length > hues.length;
  return sorted.map(([text, members], i) => ({
    text,
    members,
    colour:
      by === "lr" ? lrColour(runs[members[0]].lr)
      : by === "outcome" ? css("--" + text.replaceAll(" ", "-")) || css("--not-compared")
      : many ? plasma(i / (sorted.length - 1))
      : hues[i],
  }));
}

// --- the legend ----------------------------------------------------------------------------------

const legend = one("#legend");
let chips = [];

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

// Many lrs are switched by the decade.
function decades(found) {
  const made = new Map();
  for (const group of found) {
    const lr = runs[group.members[0]].lr;
    const decade = lr > 0 ? Math.floor(Math.log10(lr) + 1e-9) : NaN;
    if (!made.has(decade)) made.set(decade, []);
    made.get(decade).push(group);
  }
  return [...made.values()].map((groups) => ({
    text: groups.length > 1 ? `${groups[0].text} to ${groups[groups.length - 1].text}` : groups[0].text,
    members: groups.flatMap((group) => group.members),
    colour: groups[groups.length >> 1].colour,
  }));
}

function drawLegend(found) {
  const switches = [["all", true], ["none", false]].map(([text, on]) => {
    const button = element("button", "chip", text);
    button.type = "button";
    button.addEventListener("click", () => tick(runs.keys(), on));
    return button;
  });
  chips = [];
  const parts = [...switches];
  if (chosen("by") === "lr" && !data.few_lrs) {
    const bar = element("span", "bar");
    const ramp = element("i", "");
    const stops = [0, 0.25, 0.5, 0.75, 1].map(plasma);
    ramp.style.setProperty("--c", `linear-gradient(90deg, ${stops})`);
    bar.append("lr " + shortLr(lrs[0]), ramp, shortLr(lrs[lrs.length - 1]));
    parts.unshift(bar);
  }
  const byLr = chosen("by") === "lr";
  for (const group of byLr && !data.few_lrs ? decades(found) : found) {
    const button = element("button", "chip");
    button.type = "button";
    const line = element("span", "line");
    line.style.setProperty("--c", group.colour);
    button.append(line, (byLr ? "lr " : "") + group.text);
    button.addEventListener("click", () => tick(group.members, button.ariaPressed === "false"));
    chips.push([button, group.members]);
    parts.push(button);
  }
  const focus = [...legend.children].indexOf(document.activeElement);
  legend.replaceChildren(...parts);
  if (focus >= 0 && parts[focus]) parts[focus].focus();
}

function tick(members, on) {
  for (const i of members) rowOf[i].box.checked = on;
  refresh();
}

// --- the chart -----------------------------------------------------------------------------------

const chart = one("#chart");
const plot = one("#plot");
const tip = one("#tip");
const dot = one("#tip-dot");
const ON_RAIL = ["diverged", "failed"]; // marked above the frame; others are at their curve's end
const stopped = runs.filter((run) => run.stop && ON_RAIL.includes(run.stop.kind)).length;
let curves = []; // of each trace: run (its index), x, y, what; mark: "", "rail" or "end"
let drawn = []; // whether each trace is visible
let colours = [];
let ready = false;
let waiting = false;

function paint() {
  const found = groups();
  for (const group of found) for (const i of group.members) colours[i] = group.colour;
  for (const [i, row] of rowOf.entries()) row.swatch.style.setProperty("--c", colours[i]);
  drawLegend(found);
}

const seen = () => curves.map((curve) => isShown(curve.run));

function refresh() {
  if (!chart || waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    for (const [button, members] of chips) {
      const on = members.filter((i) => rowOf[i].box.checked).length;
      button.ariaPressed = on === 0 ? "false" : on === members.length ? "true" : "mixed";
    }
    hideTip();
    if (!ready) return;
    const next = seen();
    const changed = [...next.keys()].filter((k) => next[k] !== drawn[k]);
    drawn = next;
    // Opacity, because Plotly lays everything out again when `visible` changes.
    if (changed.length) Plotly.restyle(plot, { opacity: changed.map((k) => Number(next[k])) }, changed);
  });
}

function traces() {
  const loss = chosen("loss");
  const of = (what, x, y) => runs.map((run, i) => ({ run: i, x: run[x], y: run[y], what, mark: "" }));
  const marks = runs.flatMap(({ stop, y }, i) => {
    if (!stop) return [];
    const onRail = ON_RAIL.includes(stop.kind);
    if (!onRail && !y.length) return [];
    const height = onRail ? 0.5 : y[y.length - 1];
    return [{ run: i, x: [stop.step], y: [height], what: stop.kind, mark: onRail ? "rail" : "end" }];
  });
  curves = [
    ...(loss === "val" ? [] : of("train loss", "x", "y")),
    ...(loss === "train" ? [] : of("validation loss", "vx", "vy")),
    ...marks,
  ];
  drawn = seen();
  const width = count > 40 ? 1.1 : count > 12 ? 1.5 : 2;
  return curves.map(({ run, x, y, what, mark }, k) => {
    const color = colours[run];
    const line = { width, color, dash: what === "train loss" ? "solid" : "dot" };
    const symbol = { rail: "x-thin", end: "line-ns", "": "circle" }[mark];
    const marker = { symbol, color, size: mark ? 9 : 7, line: { color, width: mark ? 2 : 0 } };
    const look = x.length > 1 ? { mode: "lines", line } : { mode: "markers", marker, cliponaxis: !mark };
    const yaxis = mark === "rail" ? "y2" : "y";
    return { type: "scatter", x, y, yaxis, opacity: Number(drawn[k]), hoverinfo: "skip", ...look };
  });
}

// On a log axis, ticks at 1, 2 and 5 of each decade in one size; Plotly's own have two.
function yTicks(scale, low, high) {
  if (scale !== "log" || high - low < 0.7) return { "yaxis.tickmode": "auto" };
  const decades = [];
  for (let d = Math.floor(low); d <= Math.ceil(high); d += Math.ceil((high - low) / 9)) decades.push(d);
  const values = decades.flatMap((d) => (high - low > 3 ? [1] : [1, 2, 5]).map((m) => Number(`${m}e${d}`)));
  return { "yaxis.tickmode": "array", "yaxis.tickvals": values, "yaxis.ticktext": values.map(String) };
}

function yAxis(scale) {
  const low = scale === "log" ? Math.log10(data.low) : Math.min(0, data.negative ? data.low : 0);
  const high = scale === "log" ? Math.log10(data.high) : data.high;
  return { "yaxis.type": scale, "yaxis.range": [low, high], "yaxis.autorange": false, ...yTicks(scale, low, high) };
}

function look() {
  return {
    "paper_bgcolor": css("--paper"),
    "plot_bgcolor": css("--paper"),
    "font.color": css("--soft"),
    "xaxis.gridcolor": css("--grid"),
    "yaxis.gridcolor": css("--grid"),
    "xaxis.linecolor": css("--soft"),
    "shapes[0].fillcolor": css("--wash"),
    "shapes[1].line.color": css("--soft"),
    "shapes[1].label.font.color": css("--soft"),
  };
}

function layout() {
  const last = Math.max(1, ...runs.flatMap((run) => [...run.x.slice(-1), ...run.vx.slice(-1)]));
  const shapes = [
    {
      type: "rect", xref: "paper", yref: "paper", x0: 0, x1: 1, y0: 0.945, y1: 1, layer: "below",
      line: { width: 0 }, visible: stopped > 0,
    },
    {
      type: "line", xref: "paper", x0: 0, x1: 1, y0: data.chance, y1: data.chance, layer: "below",
      line: { width: 1, dash: "dash" }, visible: data.chance !== null,
      label: { text: "guessing", textposition: "end", yanchor: "bottom", font: { size: 12 } },
    },
  ];
  const annotations = !stopped ? [] : [{
    xref: "paper", yref: "paper", x: 1, y: 1, xanchor: "right", yanchor: "bottom", showarrow: false,
    text: `× diverged or failed: ${stopped} of ${count} runs`,
  }];
  return {
    font: { family: css("--sans"), size: 13 },
    margin: { l: 62, r: 12, t: stopped ? 26 : 8, b: 46 },
    showlegend: false,
    hovermode: false, // Plotly's own finds hidden curves, too
    // A finger that scrolls the page must not zoom.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    shapes,
    annotations,
    xaxis: { title: { text: data.unit, standoff: 6 }, range: [-0.01 * last, 1.01 * last], zeroline: false, showline: true, ticks: "outside", ticklen: 4 },
    yaxis: { title: { text: data.loss, standoff: 8 }, domain: [0, stopped ? 0.93 : 1], zeroline: false, exponentformat: "power", minexponent: 4 },
    yaxis2: { domain: [0.945, 1], range: [0, 1], fixedrange: true, visible: false },
  };
}

function unfold(target, values) {
  for (const [path, value] of Object.entries(values)) {
    const keys = path.replace(/\[(\d+)\]/g, ".$1").split(".");
    let at = target;
    for (const key of keys.slice(0, -1)) {
      if (at === undefined) break;
      at = at[key] ??= {};
    }
    if (at !== undefined) at[keys[keys.length - 1]] = value;
  }
  return target;
}

async function inflate() {
  const text = atob(one("#plotly").textContent);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const program = document.createElement("script");
  program.textContent = await new Response(stream).text();
  document.head.append(program);
}

async function start() {
  const status = one("#plot-status");
  try {
    await inflate();
    const whole = unfold(layout(), { ...look(), ...yAxis(chosen("scale")) });
    await Plotly.newPlot(plot, traces(), whole, { responsive: true, displayModeBar: false, doubleClick: false });
  } catch (error) {
    status.textContent = "The interactive chart needs a newer browser; the figures below show the same.";
    console.warn(error);
    return;
  }
  status.remove();
  ready = true;
  refresh();
  chart.dataset.ready = "";
  plot.on("plotly_relayouting", hideTip);
  plot.on("plotly_doubleclick", resetZoom);
  plot.on("plotly_relayout", (event) => {
    if (!("yaxis.range[0]" in event)) return;
    Plotly.relayout(plot, yTicks(chosen("scale"), event["yaxis.range[0]"], event["yaxis.range[1]"]));
  });
}

function resetZoom() {
  hideTip();
  if (ready) Plotly.relayout(plot, { "xaxis.range": layout().xaxis.range, ...yAxis(chosen("scale")) });
}

function recolour() {
  paint();
  if (ready) {
    const each = curves.map((curve) => colours[curve.run]);
    Plotly.restyle(plot, { "line.color": each, "marker.color": each, "marker.line.color": each });
  }
  refresh();
}

function retheme() {
  recolour();
  if (ready) Plotly.relayout(plot, look());
}

// --- a point of the chart, by mouse or by keyboard ---------------------------------------------------

// Returns a point's place in pixels of the chart.
function placeOf(x, y, onRail = false) {
  const { xaxis, yaxis, yaxis2 } = plot._fullLayout;
  const axis = onRail ? yaxis2 : yaxis;
  return [xaxis._offset + xaxis.d2p(x), axis._offset + axis.d2p(y)];
}

// Returns the visible point or mark nearest to the mouse; null if none is near.
function nearest(left, top) {
  const { xaxis } = plot._fullLayout;
  const at = xaxis.p2d(left - xaxis._offset);
  let best = null;
  let least = 30 ** 2;
  for (const [k, { x, y, mark }] of curves.entries()) {
    if (!drawn[k] || !x.length) continue;
    const i = before(x, at);
    for (let j = Math.max(0, i); j <= Math.min(i + 1, x.length - 1); j += 1) {
      const [px, py] = placeOf(x[j], y[j], mark === "rail");
      const distance = (px - left) ** 2 + (py - top) ** 2;
      if (distance < least) [least, best] = [distance, [k, j]];
    }
  }
  return best;
}

// Returns the last index whose x is not above the value; -1 if all are above.
function before(x, value) {
  let low = 0;
  let high = x.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function showTip([k, point]) {
  const { run: i, x: xs, y: ys, what, mark } = curves[k];
  const [run, x, y] = [runs[i], xs[point], ys[point]];
  const [left, top] = placeOf(x, y, mark === "rail");
  const title = element("b", "", `run ${run.run}, lr ${shortLr(run.lr)}`);
  const settings = data.settings.map((name, s) => `${name} ${run.settings[s]}`).join(", ");
  const told = mark ? what : `${what} ${Number(y.toPrecision(4))}`;
  const here = `${told} at ${data.unit} ${Math.round(x).toLocaleString("en")}`;
  const lines = [here, settings, run.outcome].filter(Boolean);
  tip.replaceChildren(title, ...lines.map((text) => element("span", "", text)));
  tip.hidden = dot.hidden = false;
  dot.style.transform = `translate(${left}px, ${top}px)`;
  dot.style.background = colours[i];
  const beside = left + tip.offsetWidth + 18 > plot.clientWidth ? left - tip.offsetWidth - 14 : left + 14;
  const above = Math.max(0, Math.min(top - tip.offsetHeight / 2, plot.clientHeight - tip.offsetHeight));
  tip.style.transform = `translate(${Math.max(0, beside)}px, ${above}px)`;
  return [title.textContent, ...lines].join(", ");
}

function hideTip() {
  tip.hidden = dot.hidden = true;
}

let cursor = null; // [curve, point] of the keyboard

function move(key, far) {
  const there = [...curves.keys()].filter((k) => drawn[k] && curves[k].x.length);
  if (!there.length) return;
  let [k, point] = cursor && there.includes(cursor[0]) ? cursor : [there[0], -1];
  const x = () => curves[k].x;
  if (key === "ArrowRight") point += far ? 10 : 1;
  if (key === "ArrowLeft") point -= far ? 10 : 1;
  if (key === "Home") point = 0;
  if (key === "End") point = x().length - 1;
  if (key === "ArrowUp" || key === "ArrowDown") {
    const here = x()[Math.max(0, point)];
    const next = there.indexOf(k) + (key === "ArrowDown" ? 1 : -1);
    k = there[(next + there.length) % there.length];
    point = before(x(), here);
  }
  cursor = [k, Math.max(0, Math.min(point, x().length - 1))];
  one("#readout").textContent = showTip(cursor);
}

// --- beginning -----------------------------------------------------------------------------------

if (!chart) return;
paint();
refresh();
for (const input of all("input[name=by]")) input.addEventListener("change", recolour);
for (const input of all("input[name=loss]")) {
  input.addEventListener("change", () => {
    cursor = null;
    hideTip();
    if (ready) Plotly.react(plot, traces(), plot.layout);
  });
}
for (const input of all("input[name=scale]")) {
  input.addEventListener("change", () => {
    hideTip();
    if (ready) Plotly.relayout(plot, yAxis(chosen("scale")));
  });
}
one("#reset").addEventListener("click", resetZoom);
chart.addEventListener("keydown", (event) => {
  if (!ready || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") return hideTip();
  if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) return;
  event.preventDefault();
  move(event.key, event.shiftKey);
});
chart.addEventListener("blur", hideTip);
chart.addEventListener("pointerleave", hideTip);
chart.addEventListener("pointerdown", hideTip);
chart.addEventListener("pointermove", (event) => {
  if (!ready || event.buttons) return;
  const { left, top } = plot.getBoundingClientRect();
  const found = nearest(event.clientX - left, event.clientY - top);
  if (found) showTip(found);
  else hideTip();
});
darkness.addEventListener("change", retheme);
addEventListener("beforeprint", retheme);
addEventListener("afterprint", retheme);
// The chart is prepared only when its place comes near.
const near = new IntersectionObserver((entries) => {
  if (!entries.some((entry) => entry.isIntersecting)) return;
  near.disconnect();
  setTimeout(start, 0);
}, { rootMargin: "600px" });
near.observe(chart);
})();
