"use strict";
// Reads values back from the drawn curves under the pointer; the page is complete without it.
for (const svg of document.querySelectorAll(".plot > svg")) {
  const [firstStep, lastStep] = svg.dataset.x.split(" ").map(Number);
  const [low, high, log] = svg.dataset.y.split(" ").map(Number);
  const height = svg.height.baseVal.value;
  const readout = svg.parentElement.querySelector(".readout");
  const cursor = document.createElementNS(svg.namespaceURI, "line");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y2", height);
  const curves = [...svg.querySelectorAll("path[data-label]")].map((path) => ({
    label: path.dataset.label,
    points: (path.getAttribute("d").match(/-?[\d.]+,-?[\d.]+/g) || []).map((pair) =>
      pair.split(",").map(Number)),
  }));
  const value = (y) => {
    const share = 1 - y / height;
    return log ? low * (high / low) ** share : low + (high - low) * share;
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * 1000;
    cursor.setAttribute("x1", at / 10 + "%");
    cursor.setAttribute("x2", at / 10 + "%");
    svg.append(cursor);
    const step = Math.round(firstStep + ((lastStep - firstStep) * at) / 1000);
    const parts = curves.filter((curve) => curve.points.length).map((curve) => {
      const nearest = curve.points.reduce((a, b) =>
        Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a);
      return `${curve.label} ${Number(value(nearest[1]).toPrecision(3))}`;
    });
    readout.textContent = [`step ${step.toLocaleString("en")}`, ...parts].join("  ·  ");
  });
  svg.addEventListener("pointerleave", () => {
    cursor.remove();
    readout.textContent = "";
  });
}
