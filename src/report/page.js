// Values under the pointer of a chart, and tables that sort by a click on a head.
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg"), tip = chart.querySelector(".tip"), ruler = chart.querySelector(".ruler");
  const d = JSON.parse(svg.dataset.chart);
  const xs = [...new Set(d.series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
  if (!xs.length) continue;
  const number = (y) => (Math.abs(y) < 0.001 && y !== 0 ? y.toExponential(2) : y.toFixed(4));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), scale = d.width / box.width;
    const at = d.from + ((event.clientX - box.left) * scale - d.left) / (d.right - d.left) * (d.to - d.from);
    const x = xs.reduce((a, b) => (Math.abs(b - at) < Math.abs(a - at) ? b : a));
    const px = d.left + (x - d.from) / (d.to - d.from) * (d.right - d.left);
    ruler.setAttribute("x1", px);
    ruler.setAttribute("x2", px);
    ruler.style.visibility = "visible";
    tip.replaceChildren(d.x + " " + x);
    for (const s of d.series) {
      const point = s.points.find((p) => p[0] === x);
      if (point) tip.append(document.createElement("br"), s.name + ": " + number(point[1]));
    }
    tip.style.display = "block";
    const left = px / scale, flip = left > box.width / 2;
    tip.style.left = flip ? "" : left + 12 + "px";
    tip.style.right = flip ? box.width - left + 12 + "px" : "";
    tip.style.top = "2.5rem";
  });
  svg.addEventListener("pointerleave", () => {
    tip.style.display = "none";
    ruler.style.visibility = "hidden";
  });
}
for (const head of document.querySelectorAll("th button")) {
  head.addEventListener("click", () => {
    const th = head.parentElement, table = th.closest("table"), body = table.tBodies[0];
    const column = [...th.parentElement.children].indexOf(th);
    const up = th.getAttribute("aria-sort") === "descending";
    for (const other of th.parentElement.children) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.children[column];
      return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
    };
    const order = (a, b) => {
      // What is missing comes last, whichever way.
      if (a === "" || b === "") return (a === "") - (b === "");
      const less = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return up ? less : -less;
    };
    body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
  });
}
