"use strict";
// Sorting, sliders, choices, theme, and charts. Nothing here loads anything: the library of charts is in the page.

const root = document.documentElement;
const COLOURS = { light: ["#17497e", "#b5442a", "#2c7a49", "#7a4fa0", "#7a5c1e", "#4d4d4d"],
                  dark: ["#8fbdf0", "#f2a08a", "#86d3a1", "#c9a7ea", "#dcc07f", "#c4c4c4"] };

function theme() { return root.dataset.theme; }

function setTheme(name) {
  root.dataset.theme = name;
  const button = document.getElementById("theme");
  button.setAttribute("aria-pressed", String(name === "dark"));
  document.querySelectorAll(".plot").forEach((plot) => { if (plot.drawing) draw(plot, plot.drawing); });
}

// Tables: a number, where a cell is one, maybe with an interval or a mark after it; else its words.
// A second press turns the order round.
const NUMBER = /^[-+]?(\d[\d,]*(\.\d*)?|\.\d+)(e[-+]?\d+)?(?=$| [[(±†‡§%])/i;

function sortBy(table, column) {
  const heading = table.tHead.rows[0].cells[column];
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const key = (row) => row.cells[column].textContent.trim();
  const number = (text) => parseFloat((NUMBER.exec(text)?.[0] ?? "").replace(/,/g, ""));
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;  // what is missing comes last
    const order = Number.isNaN(x) ? a.localeCompare(b) : x - y;
    return descending ? -order : order;
  };
  const rows = [...table.tBodies[0].rows].sort((a, b) => compare(key(a), key(b)));
  table.tBodies[0].append(...rows);
}

document.querySelectorAll("table.sortable").forEach((table) => {
  [...table.tHead.rows[0].cells].forEach((cell, column) =>
    cell.firstElementChild.addEventListener("click", () => sortBy(table, column)));
});

document.querySelectorAll(".series").forEach((series) => {
  const slider = series.querySelector("input"), pictures = series.querySelectorAll(".shown");
  const show = () => {
    pictures.forEach((picture, place) => { picture.hidden = place !== Number(slider.value); });
    slider.setAttribute("aria-valuetext", pictures[slider.value].querySelector("img").alt);
  };
  slider.addEventListener("input", show);
  show();
});

document.querySelectorAll(".choice").forEach((choice) => {
  const select = choice.querySelector("select"), parts = choice.querySelectorAll(".chosen");
  select.addEventListener("change", () => {
    parts.forEach((part, place) => { part.hidden = place !== select.selectedIndex; });
  });
});

// Charts: all that are shown are drawn at once, so that a printed page has them too; the others when they are chosen.
let library = null;

function loadLibrary() {
  library ??= (async () => {  // unpacked by the browser, since 2023 at the latest
    const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  })();
  return library;
}

// plotly reads markup in all text; none is meant here but that of the hover boxes, which are our own.
function literal(value, name) {
  if (typeof value === "string") return name === "hovertemplate" ? value : value.replace(/&/g, "&amp;").replace(/</g, "&lt;");
  if (Array.isArray(value)) return value.map((item) => literal(item, name));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, literal(item, key)]));
}

async function draw(plot, drawing) {
  plot.drawing = drawing;
  try {
    await loadLibrary();
  } catch {
    plot.textContent = "This browser is too old to draw the chart; its numbers stand below as a table.";
    return;
  }
  const style = getComputedStyle(root), text = style.getPropertyValue("--text").trim();
  const axis = { gridcolor: style.getPropertyValue("--line").trim(), zeroline: false, automargin: true };
  const layout = {
    ...literal(drawing.layout),
    colorway: COLOURS[theme()],
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: text, family: "system-ui, sans-serif" },
    hoverlabel: { namelength: -1, bgcolor: style.getPropertyValue("--raised").trim(), font: { color: text } },
    margin: { l: 60, r: 20, t: 30, b: 50, ...drawing.layout.margin },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 },
  };
  for (const name of ["xaxis", "yaxis"]) layout[name] = { ...axis, ...layout[name] };
  layout.shapes = (drawing.layout.shapes || []).map((shape) => ({ ...shape, line: { color: text, dash: "dash" } }));
  await Plotly.react(plot, literal(drawing.data), layout, { responsive: true, displaylogo: false });
}

const seen = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
  if (!isIntersecting) return;
  seen.unobserve(target);
  draw(target, JSON.parse(target.nextElementSibling.textContent));
}), { rootMargin: "1000000px" });

// Sweeps: parallel coordinates of the keys and a metric, and the metric over any two keys.
function differing(values) {
  const found = [...new Set(values)];
  return found.every((value) => value !== "" && !Number.isNaN(Number(value))) ? found.sort((a, b) => a - b) : found;
}

function linesOf(keys, metric, values) {
  const dimensions = Object.entries(keys).map(([key, own]) => {
    const ticks = differing(own);
    return { label: key, values: own.map((value) => ticks.indexOf(value)), tickvals: ticks.map((_, at) => at), ticktext: ticks };
  });
  return { layout: { margin: { t: 60, l: 80, r: 80 } }, data: [{ type: "parcoords",
    line: { color: values, colorscale: "Cividis", showscale: true }, dimensions: [...dimensions, { label: metric, values }] }] };
}

// Means of a metric over the jobs of each pair of values; `down` = undefined where one key alone was swept.
function cellsOf(keys, down, across, metric, values) {
  const rows = down ? differing(keys[down]) : [metric], columns = differing(keys[across]);
  const cells = rows.map((row) => columns.map((column) => {
    const own = values.filter((_, job) => (!down || keys[down][job] === row) && keys[across][job] === column);
    return own.length ? own.reduce((sum, value) => sum + value, 0) / own.length : null;
  }));
  return { rows, columns, cells, text: cells.map((row) => row.map((cell) => cell === null ? "" : cell.toPrecision(4))) };
}

function heatOf({ rows, columns, cells, text }, down, across, metric) {
  return { layout: { xaxis: { title: { text: across }, type: "category" },
      yaxis: { title: { text: down ?? "" }, type: "category", autorange: "reversed" } },
    data: [{ type: "heatmap", z: cells, x: columns, y: rows, colorscale: "Cividis",
      colorbar: { title: { text: metric } }, text, texttemplate: "%{text}", hoverongaps: false }] };
}

function tableOf({ rows, columns, text }, down, across) {
  const table = document.createElement("table");
  const fill = (row, tag, words) => words.forEach((word) => {
    row.append(Object.assign(document.createElement(tag), { textContent: word }));
  });
  fill(table.createTHead().insertRow(), "th", [`${down ?? ""} \\ ${across}`, ...columns]);
  const body = table.createTBody();
  rows.forEach((name, at) => fill(body.insertRow(), "td", [name, ...text[at]]));
  return table;
}

function explore(explorer) {
  const all = JSON.parse(explorer.querySelector("script").textContent);
  const choose = (name) => explorer.querySelector(`select.${name}`);
  const show = () => {
    const metric = choose("metric").value, known = all.metrics[metric].map((value) => value !== null);
    const measured = (values) => values.filter((_, job) => known[job]);
    const values = measured(all.metrics[metric]);
    const keys = Object.fromEntries(Object.entries(all.keys).map(([key, own]) => [key, measured(own)]));
    const down = choose("down")?.value, across = choose("across")?.value ?? Object.keys(keys)[0];
    const cells = cellsOf(keys, down, across, metric, values);
    draw(explorer.querySelector(".lines"), linesOf(keys, metric, values));
    draw(explorer.querySelector(".heat"), heatOf(cells, down, across, metric));
    explorer.querySelector(".cells").replaceChildren(tableOf(cells, down, across));
  };
  explorer.querySelectorAll("select").forEach((select) => select.addEventListener("change", show));
  show();
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
document.getElementById("theme").addEventListener("click", () => setTheme(theme() === "dark" ? "light" : "dark"));
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
let shownTheme = null;  // paper is white
window.addEventListener("beforeprint", () => { shownTheme = theme(); setTheme("light"); });
window.addEventListener("afterprint", () => setTheme(shownTheme));
setTheme(dark.matches ? "dark" : "light");
document.querySelectorAll(".chart > script").forEach((script) => seen.observe(script.previousElementSibling));
document.querySelectorAll(".explorer").forEach(explore);
