// Shows what the agent tells on /status.json and /history.json. Text is set as text, never as markup. Nobody is asked while the page
// is hidden.
"use strict";

const STATUS_MS = 5000;
const HISTORY_MS = 10000;
const NAMED = 20; // Volumes of one node in a sentence; the table names the primary of each.
const WORDS = { // What is fine, and what is on its way there; everything else is bad.
  good: new Set(["up", "healthy", "leader"]),
  warn: new Set(["restarting", "degraded", "opening", "catching_up", "resyncing", "joining", "leaving", "creating", "deleting", "aside"]),
};
const SIGNS = { good: "\u25cf", warn: "\u25d0", bad: "\u25cb" };

const by = (id) => document.getElementById(id);

function make(name, text, kind) {
  const element = document.createElement(name);
  if (text !== undefined && text !== null) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

function kind(word) {
  return WORDS.good.has(word) ? "good" : WORDS.warn.has(word) ? "warn" : "bad";
}

// A state: a sign beside the word, so that neither colour nor sign is needed to know it.
function state(word) {
  const element = make("span", undefined, kind(word));
  const sign = make("span", SIGNS[kind(word)] + " ");
  sign.setAttribute("aria-hidden", "true");
  element.append(sign, word.replaceAll("_", " "));
  return element;
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at + 1 < units.length) { n /= 1024; at += 1; }
  return `${Math.round(n * 10) / 10} ${units[at]}`;
}

const rate = (n) => `${bytes(n)}/s`;
const per = (n) => `${n >= 100 ? Math.round(n) : Math.round(n * 10) / 10}/s`;
const time = (ms) => (ms >= 1000 ? `${Math.round(ms / 100) / 10} s` : `${Math.round(ms * 100) / 100} ms`);
const clock = (ms) => new Date(ms).toLocaleTimeString();

function plural(n, word) {
  return `${n} ${word}${n === 1 ? "" : "s"}`;
}

// Replaced only if it changed: the place in a table, a selection, and what a screen reader says stay.
function fill(parent, children) {
  const fresh = document.createElement(parent.tagName);
  fresh.append(...children);
  if (fresh.innerHTML !== parent.innerHTML) parent.replaceChildren(...fresh.childNodes);
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function counted(things) {
  const counts = new Map();
  for (const thing of things) counts.set(thing.state, (counts.get(thing.state) || 0) + 1);
  return [...counts].map(([word, n]) => `${n} ${word}`).join(", ");
}

function summary(status) {
  const nodes = `${plural(status.nodes.length, "node")}: ${counted(status.nodes)}`;
  const volumes = status.volumes.length === 0 ? "no volumes" : `${plural(status.volumes.length, "volume")}: ${counted(status.volumes)}`;
  return `${nodes}. ${volumes}.`;
}

function node(status, n) {
  const card = make("li");
  const title = make("h3", n.name);
  const words = make("p");
  words.append(state(n.state));
  const roles = [n.leader && "leads the control plane", n.witness && "witness", n.voter && !n.witness && "votes"].filter(Boolean);
  if (n.wanted !== "in_service") roles.push(`is to be ${n.wanted}`);
  const where = [n.address, n.failure_domain, n.free_bytes === null ? null : `${bytes(n.free_bytes)} free`].filter(Boolean);
  card.append(title, words, make("p", roles.join(", ") || "does not vote", "soft"), make("p", where.join(" \u00b7 "), "soft"));
  const list = make("ul");
  for (const volume of status.volumes) {
    const copy = volume.copies.find((c) => c.node === n.name);
    if (!copy) continue;
    const item = make("li", `${volume.name}: ${copy.role}, `);
    item.append(state(copy.state));
    list.append(item);
  }
  if (list.childElementCount > 0) card.append(list);
  return card;
}

function behind(copy) {
  const parts = [];
  if (copy.lag_seconds) parts.push(`${Math.round(copy.lag_seconds * 10) / 10} s`);
  if (copy.lag_bytes) parts.push(bytes(copy.lag_bytes));
  if (parts.length === 0 && copy.lag_lsn) parts.push(plural(copy.lag_lsn, "record"));
  return parts.length === 0 ? "" : `, ${parts.join(", ")} behind`;
}

function volume(v) {
  const row = make("tr");
  const name = make("th", v.name);
  name.scope = "row";
  const how = make("td");
  how.append(state(v.state));
  if (v.reason) how.append(make("div", v.reason));
  if (v.exposed_bytes > 0) how.append(make("div", `${bytes(v.exposed_bytes)} have too few copies`));
  const copies = make("td");
  const list = make("ul");
  for (const copy of v.copies) {
    const item = make("li", `${copy.node}: ${copy.role}, `);
    item.append(state(copy.state), behind(copy), copy.note ? ` (${copy.note})` : "");
    list.append(item);
  }
  copies.append(list);
  const primary = v.primary === null ? "none" : `${v.primary}, epoch ${v.epoch}`;
  row.append(name, how, make("td", primary), make("td", bytes(v.size)), make("td", v.clients === null ? "?" : String(v.clients)), copies);
  return row;
}

function happening(event) {
  const item = make("li");
  const at = make("time", new Date(event.unix_ms).toLocaleString());
  at.dateTime = new Date(event.unix_ms).toISOString();
  item.append(at, ` ${event.volume ? `${event.volume}: ` : ""}${event.message}`);
  return item;
}

function show(status) {
  say(by("cluster"), status.cluster);
  say(by("summary"), summary(status));
  by("summary").className = status.volumes.concat(status.nodes).map((x) => kind(x.state)).sort((a, b) => "bad warn good".indexOf(a) - "bad warn good".indexOf(b))[0] || "";
  const led = status.leader === null ? "The control plane has no leader" : `${status.leader} leads the control plane`;
  say(by("source"), `${led}. Told by ${status.answered_by} at ${clock(status.unix_ms)}.`);
  by("source").className = "";
  say(by("version"), `version ${status.version}`);
  const dangers = status.unsafe.concat(...status.volumes.map((v) => v.unsafe.map((text) => `${v.name}: ${text}`)));
  by("unsafe").hidden = dangers.length === 0;
  fill(by("unsafe-list"), dangers.map((text) => make("li", text)));
  fill(by("nodes"), status.nodes.map((n) => node(status, n)));
  fill(by("volume-rows"), status.volumes.map(volume));
  fill(by("timeline"), status.events.length === 0 ? [make("li", "Nothing since this agent started.")] : status.events.map(happening));
}

// A chart of two lines over the last hour; gaps where there was no agent.
function chart(figure, history, lines, unit) {
  const [width, height, left, bottom] = [480, 170, 62, 18];
  const points = lines.flatMap((l) => l.values).filter((v) => v !== null);
  const top = Math.max(...points, unit.least);
  const count = history.points;
  const x = (at) => left + ((width - left - 6) * at) / Math.max(count - 1, 1);
  const y = (value) => 8 + (height - bottom - 8) * (1 - value / top);
  const ns = "http://www.w3.org/2000/svg";
  const draw = (name, attributes, text) => {
    const element = document.createElementNS(ns, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (const part of [0, 0.5, 1]) {
    svg.append(draw("line", { class: "grid", x1: left, x2: width - 6, y1: y(top * part), y2: y(top * part) }));
    svg.append(draw("text", { x: left - 4, y: y(top * part) + 4, "text-anchor": "end" }, unit.show(top * part)));
  }
  const start = history.until_ms - (count - 1) * history.step_ms;
  svg.append(draw("text", { x: left, y: height - 4 }, clock(start)));
  svg.append(draw("text", { x: width - 6, y: height - 4, "text-anchor": "end" }, clock(history.until_ms)));
  const said = [];
  const legend = make("p", undefined, "legend");
  for (const [at, line] of lines.entries()) {
    let path = "";
    let open = false;
    line.values.forEach((value, i) => {
      if (value === null) { open = false; return; }
      path += `${open ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
      open = true;
    });
    const which = at === 0 ? "one" : "two";
    if (path) svg.append(draw("path", { class: `line ${which}`, d: path }));
    const known = line.values.filter((v) => v !== null);
    const now = known.length === 0 ? "nothing" : `${unit.show(known[known.length - 1])} now, ${unit.show(Math.max(...known))} at most`;
    said.push(`${line.name}: ${now}`);
    legend.append(make("span", `${at === 0 ? "\u2500\u2500" : "- -"} ${line.name}: ${now}`, which), at === 0 ? make("br") : "");
  }
  svg.setAttribute("aria-label", `${figure.querySelector("figcaption").textContent} in the last hour. ${said.join(". ")}.`);
  figure.querySelectorAll("svg, p").forEach((old) => old.remove());
  figure.append(svg, legend);
}

// Who draws the charts of which volumes, if it is not this node: nobody else counts what their guests do.
function elsewhere(status) {
  const led = new Map();
  for (const v of status.volumes) {
    if (v.primary === status.answered_by) continue;
    const there = status.nodes.find((n) => n.name === v.primary);
    const at = there && there.address ? ` (its peers reach it at ${there.address})` : "";
    const who = v.primary === null ? "Led by nobody now" : `${v.primary}${at}`;
    led.set(who, (led.get(who) || []).concat(v.name));
  }
  const named = (names) => names.slice(0, NAMED).join(", ") + (names.length > NAMED ? ` and ${names.length - NAMED} more` : "");
  return [...led].sort().map(([who, names]) => make("li", `${who}: ${named(names)}`));
}

// Why there is nothing to choose from.
function noCharts(status) {
  const led = status.volumes.filter((v) => v.primary === status.answered_by).length;
  return led > 0 ? `${status.answered_by} leads ${plural(led, "volume")}; the first points come within half a minute.`
    : `${status.answered_by} leads no volume and has led none in the last hour, so it draws no charts.`;
}

function mean(values) {
  const known = values.filter((v) => v !== null);
  return known.length === 0 ? null : known.reduce((a, b) => a + b, 0) / known.length;
}

function showHistory(history) {
  const names = Object.keys(history.volumes).sort();
  const select = by("chosen");
  const chosen = select.value;
  const option = (name) => {
    const v = told && told.volumes.find((v) => v.name === name);
    const ended = v && v.primary !== told.answered_by;
    const element = make("option", ended ? `${name} (${v.primary === null ? "led by nobody now" : `until ${v.primary} led it`})` : name);
    element.value = name;
    return element;
  };
  fill(select, names.map(option));
  if (names.includes(chosen)) select.value = chosen;
  by("choice").hidden = names.length === 0;
  by("no-chart").hidden = names.length > 0;
  if (told) {
    say(by("no-chart"), noCharts(told));
    const others = elsewhere(told);
    by("elsewhere").hidden = others.length === 0;
    fill(by("elsewhere-list"), others);
  }
  const of = history.volumes[select.value];
  document.querySelector(".charts").hidden = !of;
  by("in-numbers").hidden = !of;
  if (!of) { by("numbers").replaceChildren(); return; }
  chart(by("throughput"), history, [{ name: "written", values: of.written }, { name: "read", values: of.read }], { show: rate, least: 1024 });
  chart(by("requests"), history, [{ name: "writes", values: of.writes }, { name: "reads", values: of.reads }], { show: per, least: 1 });
  chart(by("latency"), history, [{ name: "a write", values: of.write_ms }, { name: "a read", values: of.read_ms }], { show: time, least: 0.1 });
  const each = Math.max(1, Math.round(300000 / history.step_ms));
  const rows = [];
  for (let end = history.points; end > 0; end -= each) {
    const cut = (values) => mean(values.slice(Math.max(0, end - each), end));
    const cells = [[of.read, rate], [of.written, rate], [of.reads, per], [of.writes, per], [of.read_ms, time], [of.write_ms, time]];
    const found = cells.map(([values, shown]) => { const m = cut(values); return m === null ? "-" : shown(m); });
    if (found.every((text) => text === "-")) continue;
    const row = make("tr");
    const until = make("th", clock(history.until_ms - (history.points - end) * history.step_ms));
    until.scope = "row";
    row.append(until, ...found.map((text) => make("td", text)));
    rows.push(row);
  }
  fill(by("numbers"), rows);
}

let last = null;
let told = null;
async function ask(path, then, every) {
  if (document.visibilityState === "visible") {
    try {
      const answer = await fetch(path, { cache: "no-store" });
      const body = await answer.json();
      if (!answer.ok) throw new Error(body.error || `status ${answer.status}`);
      then(body);
    } catch (error) {
      say(by("source"), `No answer of the agent at ${clock(Date.now())}: ${error.message}. What is shown is older.`);
      by("source").className = "bad";
    }
  }
  setTimeout(() => ask(path, then, every), every);
}

by("chosen").addEventListener("change", () => last && showHistory(last));
ask("/status.json", (status) => { told = status; show(status); if (last) showHistory(last); }, STATUS_MS);
ask("/history.json", (history) => { last = history; showHistory(history); }, HISTORY_MS);
