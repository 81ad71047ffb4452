"use strict";
// Sorting, sliders, choices, theme, and charts. Nothing here loads anything: the library of charts is in the page.

const root = document.documentElement;
const COLOURS = { light: ["#17497e", "#b5442a", "#2c7a49", "#7a4fa0", "#7a5c1e", "#4d4d4d"],
                  dark: ["#8fbdf0", "#f2a08a", "#86d3a1", "#c9a7ea", "#dcc07f", "#c4c4c4"] };

function theme() { return root.dataset.theme; }

function setTheme(name) {
  root.dataset.theme = name;
  const button = document.getElementById("theme");
  button.textContent = name === "dark" ? "light" : "dark";
  button.setAttribute("aria-pressed", String(name === "dark"));
  document.querySelectorAll(".plot").forEach((plot) => { if (plot.drawing) draw(plot, plot.drawing); });
}

// Tables: a number, where a cell begins with one, else its words. A second press turns the order round.
function sortBy(table, column) {
  const heading = table.tHead.rows[0].cells[column];
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const key = (row) => row.cells[column].textContent.trim();
  const number = (text) => parseFloat(text.replace(/,/g, ""));
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

// Charts are drawn when they come into view.
let library = null;

function loadLibrary() {
  library ??= (async () => {
    const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  })();
  return library;
}

async function draw(plot, drawing) {
  plot.drawing = drawing;
  await loadLibrary();
  const style = getComputedStyle(root), text = style.getPropertyValue("--text").trim();
  const axis = { gridcolor: style.getPropertyValue("--line").trim(), zeroline: false, automargin: true };
  const layout = { ...drawing.layout, colorway: COLOURS[theme()], paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, family: "system-ui, sans-serif" },
    hoverlabel: { namelength: -1, bgcolor: style.getPropertyValue("--raised").trim(), font: { color: text } }, margin: { l: 60, r: 20, t: 30, b: 50, ...drawing.layout.margin },
    legend: { orientation: "h", y: -0.22 } };
  for (const name of ["xaxis", "yaxis"]) layout[name] = { ...axis, ...drawing.layout[name] };
  layout.shapes = (drawing.layout.shapes || []).map((shape) => ({ ...shape, line: { color: text, dash: "dash" } }));
  await Plotly.react(plot, structuredClone(drawing.data), layout, { responsive: true, displaylogo: false });
}

const seen = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
  if (!isIntersecting) return;
  seen.unobserve(target);
  draw(target, JSON.parse(target.nextElementSibling.textContent));
}), { rootMargin: "300px" });

// Sweeps: parallel coordinates of the keys and a metric, and the metric over any two keys.
function valuesOf(jobs, key) {
  const values = [...new Set(jobs.map((job) => job.keys[key]))];
  return values.every((value) => value !== "" && !Number.isNaN(Number(value)))
    ? values.sort((a, b) => a - b) : values;
}

function explore(explorer) {
  const { jobs, keys } = JSON.parse(explorer.querySelector("script").textContent);
  const choose = (name) => explorer.querySelector(`select.${name}`);
  const show = () => {
    const metric = choose("metric").value, measured = jobs.filter((job) => job.metrics[metric] !== null);
    const colours = measured.map((job) => job.metrics[metric]);
    const dimensions = keys.map((key) => {
      const values = valuesOf(measured, key);
      return { label: key, values: measured.map((job) => values.indexOf(job.keys[key])),
        tickvals: values.map((_, place) => place), ticktext: values };
    });
    draw(explorer.querySelector(".lines"), { layout: { margin: { t: 60, l: 80, r: 80 } }, data: [{ type: "parcoords",
      line: { color: colours, colorscale: "Cividis", showscale: true },
      dimensions: [...dimensions, { label: metric, values: colours }] }] });
    const down = choose("down")?.value, across = choose("across")?.value ?? keys[0];
    const rows = down ? valuesOf(measured, down) : [metric], columns = valuesOf(measured, across);
    const cells = rows.map((row) => columns.map((column) => {
      const own = measured.filter((job) => (!down || job.keys[down] === row) && job.keys[across] === column);
      return own.length ? own.reduce((sum, job) => sum + job.metrics[metric], 0) / own.length : null;
    }));
    draw(explorer.querySelector(".heat"), { layout: { xaxis: { title: { text: across }, type: "category" },
        yaxis: { title: { text: down ?? "" }, type: "category", autorange: "reversed" } },
      data: [{ type: "heatmap", z: cells, x: columns, y: rows, colorscale: "Cividis", colorbar: { title: { text: metric } },
        text: cells.map((row) => row.map((value) => value === null ? "" : value.toPrecision(4))),
        texttemplate: "%{text}", hoverongaps: false }] });
  };
  explorer.querySelectorAll("select").forEach((select) => select.addEventListener("change", show));
  show();
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
document.getElementById("theme").addEventListener("click", () => setTheme(theme() === "dark" ? "light" : "dark"));
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
setTheme(dark.matches ? "dark" : "light");
document.querySelectorAll(".chart > script").forEach((script) => seen.observe(script.previousElementSibling));
document.querySelectorAll(".explorer").forEach(explore);
