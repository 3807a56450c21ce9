"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = new Map();
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const short = (value) => Number(value.toPrecision(2)).toString();

  const axis = (title, more) => ({
    title: { display: Boolean(title), text: title, color: css("--quiet") },
    ticks: { color: css("--quiet"), ...more },
    grid: { color: css("--line") },
  });

  const line = (label, values, colour, more) => ({
    label, data: values.map((y, x) => ({ x, y })), borderColor: css(colour), backgroundColor: css(colour),
    borderWidth: 1.5, pointRadius: values.length > 80 ? 0 : 2.5, pointHoverRadius: 5, pointHitRadius: 8,
    tension: 0, spanGaps: false, ...more,
  });

  const entries = (chart) => Chart.defaults.plugins.legend.labels.generateLabels(chart)
    .map((entry) => ({ ...entry, pointStyle: chart.data.datasets[entry.datasetIndex].mark ? "circle" : "line" }));

  const options = (labels, count, describe) => ({
    animation: false, maintainAspectRatio: false, parsing: false, normalized: true,
    interaction: { mode: "index", intersect: false },
    plugins: {
      legend: { display: count > 1, labels: { color: css("--ink"), boxHeight: 8, usePointStyle: true, pointStyleWidth: 12, generateLabels: entries } },
      tooltip: { callbacks: describe, filter: (item) => !item.dataset.mark },
    },
    scales: {
      x: { type: "linear", min: 0, max: Math.max(1, labels.length - 1), ...axis(labels.title, {
        maxRotation: 60, autoSkip: true, precision: 0, callback: (index) => labels[index] ?? "",
      }), afterBuildTicks: (scale) => {
        const step = Math.max(1, Math.ceil(labels.length / Math.max(2, Math.floor(scale.chart.width / 56))));
        scale.ticks = labels.flatMap((_, i) => i % step === 0 ? [{ value: i }] : []);
      } },
      y: { type: "logarithmic", ...axis("L2 norm", {
        maxTicksLimit: 9, callback: (value) => Number.isInteger(Math.round(Math.log10(value) * 1e6) / 1e6) ? value.toExponential(0) : "",
      }) },
    },
  });

  const extremes = (numbers) => numbers.reduce(([low, high], n) => [Math.min(low, n), Math.max(high, n)], [Infinity, -Infinity]);
  const cut = (name) => name.length > 14 ? "…" + name.slice(-13) : name;

  function drawPath(canvas, section) {
    const paths = data[section.dataset.number].paths;
    const select = section.querySelector("select.path");
    const path = paths[select ? select.value : 0];
    const labels = path.points.map((point) => cut(point.layer));
    labels.title = "";
    const norms = path.points.map((point) => point.norm);
    const sets = [line(path.name, norms, "--accent", {
      borderWidth: 2,
    })];
    for (const other of path.lines) {
      sets.push(line(other.name, other.values, `--${other.kind}`, { borderDash: other.kind === "baseline" ? [6, 4] : [], pointRadius: 0 }));
    }
    for (const limit of path.limits) {
      sets.push(line(limit.name, limit.values, "--failure", { borderDash: [6, 3], borderWidth: 1, pointRadius: 0 }));
    }
    if (path.found) {
      const there = path.points.map((point) => point.found ? point.norm : null);
      sets.push(line(path.found, there, "--failure", { mark: true, showLine: false, pointRadius: 5, order: -1 }));
    }
    for (const box of section.querySelectorAll("input.extra:checked")) {
      const name = box.value === "weight" ? "weight gradients" : "outputs";
      sets.push(line(name, path.points.map((point) => point[box.value]), `--${box.value}`, { borderDash: [2, 3] }));
    }
    const describe = {
      title: (items) => { const p = path.points[items[0].dataIndex]; return `${p.layer} (${p.type})`.match(/.{1,36}/gsu); },
      afterTitle: (items) => `output ${path.points[items[0].dataIndex].shape}`,
      label: (item) => `${item.dataset.label}: ${short(item.raw.y)}`,
      afterBody: (items) => { const step = path.points[items[0].dataIndex].step; return step ? `step ${step} from the layer after it` : ""; },
    };
    section.querySelector(".gaps").hidden = !norms.includes(null);
    replace(canvas, sets, options(labels, sets.length, describe));
    canvas.points = path.points;
  }

  function drawTimes(canvas, section) {
    const time = data[section.dataset.number].times[canvas.dataset.time];
    const labels = time.values.map((_, back) => String(back));
    labels.title = "steps back in time";
    const sets = [line("gradient", time.values, "--accent", {
      pointRadius: time.values.map((_, back) => back === time.dependency ? 5 : 0),
      pointBackgroundColor: time.values.map((_, back) => css(back === time.dependency ? "--failure" : "--accent")),
    })];
    replace(canvas, sets, options(labels, 1, {
      title: (items) => `${items[0].dataIndex} steps back`, label: (item) => short(item.raw.y),
    }));
  }

  function replace(canvas, datasets, settings) {
    const decades = datasets.flatMap((set) => set.data.flatMap((point) => point.y == null ? [] : [Math.log10(point.y)]));
    if (decades.length) {  // whole decades, so that both ends have a label
      const [low, high] = extremes(decades);
      settings.scales.y.min = 10 ** Math.floor(low);
      settings.scales.y.max = 10 ** Math.max(Math.ceil(high), Math.floor(low) + 1);
    }
    charts.get(canvas)?.destroy();
    charts.set(canvas, new Chart(canvas, { type: "line", data: { datasets }, options: settings }));
  }

  function draw(section) {
    for (const canvas of section.querySelectorAll("canvas")) {
      (canvas.classList.contains("times") ? drawTimes : drawPath)(canvas, section);
    }
  }

  const sections = [...document.querySelectorAll(".probe")];
  for (const section of sections) {
    section.addEventListener("toggle", (event) => {
      if (event.target === section && section.open && !charts.has(section.querySelector("canvas"))) draw(section);
    });
    section.addEventListener("change", (event) => {
      if (event.target.matches("select.path, input.extra")) drawPath(section.querySelector("canvas.norms"), section);
    });
    section.addEventListener("keydown", (event) => {
      const canvas = event.target, chart = charts.get(canvas);
      if (!chart || !canvas.points || !["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
      event.preventDefault();
      const last = canvas.points.length - 1, at = canvas.at ?? (event.key === "ArrowRight" ? -1 : last + 1);
      const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
      canvas.at = Math.min(last, Math.max(0, next));
      const point = canvas.points[canvas.at];
      const active = chart.data.datasets.flatMap((set, datasetIndex) => set.data[canvas.at]?.y == null ? [] : [{ datasetIndex, index: canvas.at }]);
      const where = chart.getDatasetMeta(0).data[canvas.at];
      chart.setActiveElements(active);
      chart.tooltip.setActiveElements(active, where ? { x: where.x, y: where.y } : { x: 0, y: 0 });
      chart.update();
      section.querySelector(".spoken").textContent = `${point.layer} (${point.type}): gradient ${point.shown}${point.step ? `, step ${point.step}` : ""}`;
    });
  }

  const filter = document.getElementById("filter");
  function apply() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdicts = new Set([...document.querySelectorAll("input[name=verdict]:checked")].map((box) => box.value));
    let shown = 0;
    for (const section of sections) {
      const text = section.querySelector("summary").textContent + " " + (section.querySelector(".findings")?.textContent ?? "") + section.querySelector(".facts").textContent;
      const keep = verdicts.has(section.dataset.verdict) && words.every((word) => text.toLowerCase().includes(word));
      section.hidden = !keep;
      shown += keep;
    }
    document.getElementById("shown").textContent = `${shown} of ${sections.length} shown`;
  }
  if (filter) {
    document.querySelector(".filter").addEventListener("input", apply);
    document.querySelector(".filter").addEventListener("submit", (event) => event.preventDefault());
    apply();
  }

  const redraw = () => sections.filter((section) => charts.has(section.querySelector("canvas"))).forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let opened = [];
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printing");
    opened = [...document.querySelectorAll("details:not([open])")].filter((item) => sections.length <= 60 || item.closest(".probe[open]"));
    for (const item of opened) item.open = true;
    sections.filter((section) => section.open && !section.hidden).forEach(draw);
    for (const chart of charts.values()) chart.resize();
  });
  addEventListener("afterprint", () => { document.documentElement.classList.remove("printing"); for (const item of opened) item.open = false; redraw(); });
  const watcher = new IntersectionObserver((seen) => {  // what is not seen is drawn when it is
    for (const entry of seen) if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "50%" });
  const [first, ...others] = sections.filter((section) => section.open);
  if (first) draw(first);
  others.forEach((section) => watcher.observe(section));

  async function copy(button) {
    const source = button.closest(".copied").querySelector("pre"), note = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(source.textContent);
      note.textContent = "copied";
    } catch {  // there is no clipboard here, or it is refused: in a frame, say
      getSelection().selectAllChildren(source);
      note.textContent = "selected: copy it by keyboard or menu";
    }
    setTimeout(() => { note.textContent = ""; }, 4000);
  }
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
})();
