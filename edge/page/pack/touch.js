// A finger drawn sideways over a chart chooses what to zoom into; up and down scrolls the page as everywhere.

export function zoomByTouch(plot, zoom) {
  const over = plot.over;
  let start = null;
  over.style.touchAction = "pan-y";
  const at = (event) => Math.min(Math.max(event.clientX - over.getBoundingClientRect().left, 0), over.clientWidth);
  over.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse") return; // uPlot's own
    start = at(event);
    over.setPointerCapture(event.pointerId);
  });
  over.addEventListener("pointermove", (event) => {
    if (start === null) return;
    const now = at(event);
    plot.setCursor({ left: now, top: over.clientHeight / 2 });
    plot.setSelect({ left: Math.min(start, now), width: Math.abs(now - start), top: 0, height: over.clientHeight }, false);
  });
  over.addEventListener("pointerup", (event) => {
    if (start === null) return;
    const [low, high] = [start, at(event)].sort((a, b) => a - b);
    start = null;
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    if (high - low > 12) zoom.set({ min: plot.posToVal(low, "x"), max: plot.posToVal(high, "x") });
  });
  over.addEventListener("pointercancel", () => {
    start = null;
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  });
}
