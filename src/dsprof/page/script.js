"use strict";
// Plots that answer pointer and keys, tables that sort and filter. Text goes into the page by textContent alone.
const find = (query, root = document) => root.querySelector(query);
const all = (query, root = document) => [...root.querySelectorAll(query)];
const data = JSON.parse(find("#data").textContent);
const WIDTH = 1140, LEFT = 74, SVG = "http://www.w3.org/2000/svg";
document.documentElement.classList.add("js");

// A time as the page has it elsewhere: four digits in the unit that fits.
function time(ns) {
  const size = Math.abs(ns);
  const [unit, word] = size >= 1e9 ? [1e9, "s"] : size >= 1e6 ? [1e6, "ms"] : size >= 1e3 ? [1e3, "us"] : [1, "ns"];
  if (unit === 1) return `${Math.round(ns)} ns`;
  const places = 3 - String(Math.trunc(size / unit)).length;
  return `${(ns / unit).toFixed(places < 0 ? 0 : Math.max(places + 1, 1))} ${word}`;
}
const limited = (value, low, high) => Math.max(low, Math.min(high, value));
const element = (tag, text, className) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};

find("#theme")?.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
find("#print")?.addEventListener("click", () => print());

// What is told of the place under the pointer.
function tipOf(plot) {
  const box = element("div", "", "tip");
  box.hidden = true;
  box.setAttribute("role", "status");
  plot.append(box);
  return {
    show(text, x, y) {
      if (box.textContent !== text) box.textContent = text;
      box.hidden = false;
      box.style.left = `${limited(x + 14, 0, Math.max(0, plot.clientWidth - box.offsetWidth))}px`;
      box.style.top = `${y - box.offsetHeight - 12 < 0 ? y + 18 : y - box.offsetHeight - 12}px`;
    },
    hide() { box.hidden = true; },
  };
}
// Places of a drawing and places on the screen: a drawing that is wider than its frame is scrolled.
const frame = (plot, svg) => {
  const drawn = svg.getBoundingClientRect(), around = plot.getBoundingClientRect();
  return { scale: drawn.width / WIDTH, left: drawn.left - around.left, top: drawn.top - around.top, drawn };
};

// ---- steps ---------------------------------------------------------------------------------------------
const STATES = ["", "warm-up", "outlier"];
function stepOf(row) {
  const steps = data.steps, [stage, label, step, state, wall, work, ...causes] = row;
  const lines = [`${steps.stages[stage]}, ${steps.labels[label]}, step ${step}${state ? `, ${STATES[state]}` : ""}`];
  lines.push(`wall ${time(wall)}`, `GPU works ${time(work)}`);
  for (let i = 0; i < causes.length; i += 2) lines.push(`${steps.causes[causes[i]]} ${time(causes[i + 1])}`);
  return { at: wall, text: lines.join("\n") };
}
function pieceOf([first, last, least, middle, most, work]) {
  const lines = [`steps ${first + 1} to ${last + 1}`, `from ${time(least)} to ${time(most)}`, `median ${time(middle)}`];
  return { at: middle, text: [...lines, `GPU works ${time(work)}`].join("\n") };
}
function stepsPlot(plot) {
  const steps = data.steps, rows = steps.rows ?? steps.pieces, told = steps.rows ? stepOf : pieceOf;
  const svg = find("svg", plot), mark = find(".mark", svg), tip = tipOf(plot), height = svg.viewBox.baseVal.height;
  const each = steps.n / rows.length;
  let at = -1;
  const x = (i) => LEFT + ((steps.rows ? i : Math.min((i + .5) * Math.round(each) - .5, steps.n - 1)) + .5) / steps.n * (WIDTH - LEFT - 6);
  const go = (i) => {
    at = limited(i, 0, rows.length - 1);
    const one = told(rows[at]), y = height - 30 - Math.min(one.at, steps.top) / steps.top * (height - 40);
    mark.setAttribute("cx", x(at));
    mark.setAttribute("cy", y);
    mark.removeAttribute("hidden");
    const { scale, left, top } = frame(plot, svg);
    tip.show(one.text, left + x(at) * scale, top + y * scale);
  };
  const leave = () => { tip.hide(); mark.setAttribute("hidden", ""); };
  svg.addEventListener("pointermove", (e) => {
    const { scale, drawn } = frame(plot, svg);
    go(Math.round(((e.clientX - drawn.left) / scale - LEFT) / (WIDTH - LEFT - 6) * rows.length - .5));
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (e) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[e.key];
    if (e.key === "Escape") leave();
    if (!by) return;
    e.preventDefault();
    go(at + by);
  });
}

// ---- one step ------------------------------------------------------------------------------------------
function linePlot(plot) {
  const line = data.lines[plot.dataset.number], names = data.names, full = line.span;
  const svg = find("svg", plot), tip = tipOf(plot), ticks = all(".tick", svg), begin = LEFT + 16, room = WIDTH - begin;
  let top = 28;
  const lanes = line.lanes.map(([title, height, events]) => {
    const lane = { title, height, events, y: top };
    top += height + 8;
    return lane;
  });
  const walked = lanes.filter((lane) => lane.title.startsWith("stream") || lane.title.startsWith("GPU"))
    .flatMap((lane) => lane.events.map((event) => [event, lane])).sort((one, other) => one[0][0] - other[0][0]);
  let low = 0, high = full, dragged = null, walking = -1, waiting = false;
  const x = (ns) => begin + (ns - low) / (high - low) * room;
  const said = ([start, took, name, , ahead]) =>
    `${names[name]}\n${time(took)}, at ${time(start)}${ahead === undefined ? "" : `\nlaunched ${time(ahead)} before`}`;
  function drawLane(lane, into) {
    const paths = {}, ends = {};
    for (const [start, took, name, colour] of lane.events) {
      if (start + took < low || start > high) continue;
      const first = Math.max(begin, x(start)), last = Math.min(WIDTH, Math.max(x(start + took), x(start) + .5));
      if (last - (ends[colour] ?? -1) < .4) continue;
      ends[colour] = last;
      (paths[colour] ??= []).push(`M${first.toFixed(1)} ${lane.y}H${last.toFixed(1)}v${lane.height}H${first.toFixed(1)}z`);
      if (last - first > 46) into.texts.push([names[name], first, last, lane.y + lane.height / 2 + 4, colour]);
    }
    for (const [colour, commands] of Object.entries(paths)) {
      const made = document.createElementNS(SVG, "path");
      made.setAttribute("d", commands.join(""));
      made.setAttribute("class", colour);
      into.group.append(made);
    }
  }
  function label(group, [text, first, last, y, colour]) {
    const made = document.createElementNS(SVG, "text"), letters = Math.floor((last - first - 8) / 6.2);
    made.textContent = text.length > letters ? `${text.slice(0, letters - 1)}…` : text;
    made.setAttribute("x", first + 4);
    made.setAttribute("y", y);
    made.setAttribute("class", colour === "range" ? "inner label" : "inner inside");
    group.append(made);
  }
  function draw() {
    waiting = false;
    const old = find(".events", svg), group = old.cloneNode(false), into = { group, texts: [] };
    lanes.forEach((lane) => drawLane(lane, into));
    into.texts.slice(0, 400).forEach((one) => label(group, one));
    old.replaceWith(group);
    ticks.forEach((tick, i) => { tick.textContent = time(low + (high - low) * i / (ticks.length - 1)); });
  }
  const soon = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
  const show = (from, width) => {
    const kept = limited(width, Math.min(full, 2000), full);
    low = limited(from, 0, full - kept);
    high = low + kept;
    soon();
  };
  const zoom = (by, around) => {
    const width = limited((high - low) * by, Math.min(full, 2000), full);
    show(around - (around - low) / (high - low) * width, width);
  };
  const nsAt = (e) => {
    const { scale, drawn } = frame(plot, svg);
    return low + ((e.clientX - drawn.left) / scale - begin) / room * (high - low);
  };
  function walk(by) {
    if (!walked.length) return;
    walking = limited(walking + by, 0, walked.length - 1);
    const [event, lane] = walked[walking];
    if (event[0] < low || event[0] > high) show(event[0] - (high - low) / 2, high - low);
    const { scale, left, top: above } = frame(plot, svg);
    tip.show(said(event), left + x(event[0]) * scale, above + lane.y * scale);
  }
  function hover(e) {
    const { scale, drawn, left, top: above } = frame(plot, svg), y = (e.clientY - drawn.top) / scale, at = nsAt(e);
    const lane = lanes.find((one) => y >= one.y - 2 && y <= one.y + one.height + 2), slack = (high - low) / room * 2;
    let found = null;
    for (const event of lane?.events ?? []) if (event[0] - slack <= at && event[0] + event[1] + slack >= at) found = event;
    if (found) tip.show(said(found), e.clientX - drawn.left + left, lane.y * scale + above); else tip.hide();
  }
  svg.addEventListener("wheel", (e) => {
    if (document.activeElement !== svg && !e.ctrlKey) return;
    e.preventDefault();
    zoom(e.deltaY > 0 ? 1.25 : .8, nsAt(e));
  }, { passive: false });
  svg.addEventListener("pointerdown", (e) => { dragged = [e.clientX, low, high - low]; svg.setPointerCapture(e.pointerId); });
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => { dragged = null; });
  svg.addEventListener("pointermove", (e) => {
    if (!dragged) return hover(e);
    const { scale } = frame(plot, svg);
    tip.hide();
    show(dragged[1] + (dragged[0] - e.clientX) / scale / room * dragged[2], dragged[2]);
  });
  svg.addEventListener("pointerleave", tip.hide);
  svg.addEventListener("blur", tip.hide);
  svg.addEventListener("keydown", (e) => {
    const width = high - low, middle = (low + high) / 2;
    const done = {
      "+": () => zoom(.7, middle), "=": () => zoom(.7, middle), "-": () => zoom(1 / .7, middle), 0: () => show(0, full),
      ArrowRight: () => show(low + width / 8, width), ArrowLeft: () => show(low - width / 8, width),
      n: () => walk(1), p: () => walk(-1), Escape: tip.hide,
    }[e.key];
    if (!done || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault();
    done();
  });
  draw();
}

// ---- tables --------------------------------------------------------------------------------------------
function sorts(table) {
  const body = table.tBodies[0], rows = [...body.rows], heads = all("th", table);
  const value = (row, i) => row.cells[i].dataset.v ?? row.cells[i].textContent;
  heads.forEach((head, i) => find("button", head)?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach((one) => one.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const number = rows.some((row) => row.cells[i].dataset.v !== undefined);
    const known = (row) => !number || row.cells[i].dataset.v !== undefined;
    const compare = (one, other) => number ? value(one, i) - value(other, i) : value(one, i).localeCompare(value(other, i));
    rows.sort((one, other) => known(other) - known(one) || (down ? -1 : 1) * (known(one) ? compare(one, other) : 0));
    body.append(...rows);
  }));
}
function filters(table) {
  const name = table.id.replace(/-table$/, ""), box = find(`#${name}-search`), count = find(`#${name}-count`);
  const heads = all("th", table).map((head) => head.dataset.column), choices = all(`#${name}-controls select`);
  const chosen = (row, one) => !one.value || row.cells[heads.indexOf(one.dataset.column)].textContent === one.value;
  const rows = [...table.tBodies[0].rows], texts = rows.map((row) => row.textContent.toLowerCase());
  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      const fits = words.every((word) => texts[i].includes(word));
      row.hidden = !(fits && choices.every((one) => chosen(row, one)));
      shown += !row.hidden;
    });
    count.textContent = `${shown} of ${rows.length}`;
  };
  box.addEventListener("input", filter);
  choices.forEach((one) => one.addEventListener("change", filter));
  filter();
}

// The numbers of a plot, made when somebody asks for them.
const MOST_ROWS = 2000;
const stepRows = () => data.steps.rows
  ? [["stage", "of", "step", "kind", "wall", "GPU works"], data.steps.rows.map(([stage, label, step, state, wall, work]) =>
    [data.steps.stages[stage], data.steps.labels[label], step, STATES[state], time(wall), time(work)])]
  : [["first step", "last", "shortest", "median", "longest", "GPU works"], data.steps.pieces.map(([first, last, ...times]) =>
    [first + 1, last + 1, ...times.map(time)])];
const lineRows = (number) => [["lane", "name", "at", "took"], data.lines[number].lanes.reduce(([rows, before], [title, , events]) => {
  const lane = title || before;
  return [rows.concat(events.map(([start, took, name]) => [lane, data.names[name], time(start), time(took)])), lane];
}, [[], ""])[0]];
function fill(place) {
  const [head, rows] = place.dataset.rows === "steps" ? stepRows() : lineRows(place.dataset.number);
  const table = element("table"), top = table.createTHead().insertRow(), body = table.createTBody();
  const words = head.map((_, i) => typeof rows[0]?.[i] === "string" && !/^\d/.test(rows[0][i]));
  head.forEach((word, i) => { const cell = element("th", word, words[i] ? "l" : ""); cell.scope = "col"; top.append(cell); });
  for (const row of rows.slice(0, MOST_ROWS)) {
    const line = body.insertRow();
    row.forEach((text, i) => line.append(element("td", text, words[i] ? "l" : "")));
  }
  const scroll = element("div", undefined, "scroll");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "group");
  scroll.setAttribute("aria-label", "Numbers of the plot");
  scroll.append(table);
  place.replaceChildren(scroll, ...(rows.length > MOST_ROWS ? [element("p", `The first ${MOST_ROWS} of ${rows.length}.`, "dim")] : []));
}
for (const place of all("[data-rows]")) {
  place.closest("details").addEventListener("toggle", () => { if (!place.firstChild) fill(place); });
}
all("table[data-sortable]").forEach(sorts);
all("table[id]").forEach(filters);
all("[data-plot=steps]").forEach(stepsPlot);
all("[data-plot=line]").forEach(linePlot);
document.documentElement.dataset.ready = "yes";
