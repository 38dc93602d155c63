// What people do to the pack: pointing at a cell, turning and zooming with mouse, fingers or keys.

const RADIANS_PER_PIXEL = 0.008, TURN = 0.15, ZOOM = 1.2, TAP_PIXELS = 6;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

// `on` has enter(), leave(), point(x, y) with the place in the canvas from 0 to 1, step(key), turn(around, above), nearer(factor),
// reset(). Returns what takes the listeners away again.
export function listen(canvas, on) {
  const gone = new AbortController(), fingers = new Map();
  let moved = 0;
  const hear = (name, what, more = {}) => canvas.addEventListener(name, what, { signal: gone.signal, ...more });
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    on.point((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  };
  const apart = () => {
    const [a, b] = [...fingers.values()];
    return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
  };

  hear("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    moved = fingers.size > 1 ? Infinity : 0;
    canvas.setPointerCapture(event.pointerId);
  });
  hear("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) { point(event); return; }
    const was = fingers.size === 2 ? apart() : 0;
    fingers.set(event.pointerId, event);
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    moved += Math.hypot(dx, dy);
    if (was > 0) on.nearer(apart() / was);
    else if (moved > TAP_PIXELS) {
      on.leave();
      on.turn(-dx * RADIANS_PER_PIXEL, dy * RADIANS_PER_PIXEL);
    }
  });
  hear("pointerup", (event) => {
    if (fingers.delete(event.pointerId) && moved <= TAP_PIXELS) point(event); // a tap on a touch screen chooses
  });
  hear("pointercancel", (event) => fingers.delete(event.pointerId));
  hear("pointerleave", (event) => { if (event.pointerType === "mouse") on.leave(); });
  hear("focus", () => { if (canvas.matches(":focus-visible")) on.enter(); });
  hear("blur", () => on.leave());
  hear("wheel", (event) => {
    // the page is what a wheel scrolls, unless the pack was clicked at or the fingers pinch (which comes with ctrlKey)
    if (!event.ctrlKey && document.activeElement !== canvas) return;
    event.preventDefault();
    on.nearer(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.001)));
  }, { passive: false });
  hear("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const arrow = ARROWS[event.key];
    if (arrow && event.shiftKey) on.turn(arrow[0] * TURN, arrow[1] * TURN);
    else if (arrow) on.step(event.key);
    else if (event.key === "+" || event.key === "=") on.nearer(ZOOM);
    else if (event.key === "-") on.nearer(1 / ZOOM);
    else if (event.key === "Home") on.reset();
    else if (event.key === "Escape") on.leave();
    else return;
    event.preventDefault();
  });
  return () => gone.abort();
}
