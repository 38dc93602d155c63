// A battery pack cell by cell: in 3D with three.js, from above on a 2D canvas where there is no WebGL or it is lost.
//
//   const pack = await createPack3D(container, { texts });
//   pack.setLayout({ series: 96, parallel: 2 });
//   pack.update({ voltages_v, temps_c, soc_pct, current_a, by: "temperature" });   // lists by cell and by probe, with nulls
//   pack.dispose();
//
// A current is positive into the battery. `container.dataset.renderer` is "webgl" or "2d", `.frames` counts pictures.

import { colourOf } from "./colours.js";
import { createFlat } from "./flat.js";
import { listen } from "./input.js";
import { layOut, neighbour } from "./layout.js";
import { Loop } from "./loop.js";
import { Panel } from "./panel.js";
import { Away, NotInstalled, arriving, styleSheet } from "../vendored.js";
import { extremes, probeOf, scaleOf, valuesOf } from "./readings.js";

const IDLE_A = 0.5; // a current below is the sensor's own
const SLOWEST = 1.5, FASTEST = 9, FAST_A = 150; // of the arrows, in cells a second

// Rejects with Away where something of it did not come over the network; it may be asked for again.
export async function createPack3D(container, { texts }) {
  await styleSheet(new URL("pack3d.css", import.meta.url).href); // a page without a pack does not load it
  const pack = new Pack(container, texts.pack3d);
  await pack.begin();
  return pack;
}


class Pack {
  constructor(container, texts) {
    this.container = container;
    this.panel = new Panel(container, texts);
    this.known = { voltages_v: [], temps_c: [], soc_pct: null, current_a: null, by: "voltage" };
    this.chosen = null; // a cell, from 0
    this.offset = 0; // how far the arrows have come
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.onCalm = () => this.showFlow();
    this.calm.addEventListener("change", this.onCalm);
    this.theme = new MutationObserver(() => this.showTheme());
    this.theme.observe(document.documentElement, { attributeFilter: ["data-theme"] });
  }

  // Whether it is 3D.
  get supported() { return this.container.dataset.renderer === "webgl"; }

  async begin() {
    let view, renderer = "webgl";
    try {
      const { createWebgl } = await arriving(import("./webgl.js"));
      view = await createWebgl(this.panel.newCanvas(), { lost: () => this.fallBack() });
    } catch (error) {
      if (error instanceof Away) {
        this.leave();
        throw error;
      }
      this.panel.missing = error instanceof NotInstalled;
      console.info(`no 3D here: ${error.message}`);
      [view, renderer] = [createFlat(this.panel.newCanvas()), "2d"];
    }
    this.loop = new Loop(this.panel.stage, (passed) => this.draw(passed));
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(this.panel.stage);
    this.container.dataset.frames = 0;
    this.use(view, renderer);
    this.setLayout({ series: 1, parallel: 1 });
  }

  use(view, renderer) {
    this.view = view;
    this.container.dataset.renderer = renderer;
    this.deafen?.();
    this.deafen = listen(this.panel.canvas, {
      enter: () => this.choose(this.chosen ?? this.worst()),
      leave: () => this.choose(null),
      point: (x, y) => this.choose(view.pick(x, y), false),
      step: (key) => this.choose(neighbour(this.layout, this.chosen ?? this.worst(), key)),
      turn: (around, above) => { view.turn(around, above); this.loop.changed(); },
      nearer: (factor) => { view.nearer(factor); this.loop.changed(); },
      reset: () => { view.reset(); this.loop.changed(); },
    });
  }

  // The graphics card is gone: a driver was updated, or a phone wanted the memory.
  fallBack() {
    this.view.dispose();
    this.use(createFlat(this.panel.newCanvas()), "2d");
    this.showTheme();
    this.view.setLayout(this.layout);
    this.resize();
    this.show();
  }

  // Cells in series and in parallel, as the pack's nameplate has them.
  setLayout({ series, parallel }) {
    this.size = { series: Math.max(1, series || 1), parallel: Math.max(1, parallel || 1) };
    this.layout = layOut(this.size.series, this.size.parallel);
    this.chosen = null;
    this.panel.showCell(null);
    this.view.setLayout(this.layout);
    this.view.highlight(null);
    this.showTheme();
    this.show();
  }

  // What is new; what is left out stays as it was.
  update(news) {
    Object.assign(this.known, news);
    this.show();
  }

  show() {
    const { known, size, layout, panel } = this, values = valuesOf(known, size.series), scale = scaleOf(known.by, values);
    this.found = extremes(values);
    this.view.setColours(values.map((value) => colourOf(known.by, value, scale)));
    panel.show({
      by: known.by, scale, values, ...this.found, ...size, perModule: layout.perModule, probes: known.temps_c.length, webgl: this.supported,
    });
    if (this.chosen !== null) panel.showCell(this.about(this.chosen), this.view.where(this.chosen), false);
    this.showFlow();
  }

  showFlow() {
    const current = this.known.current_a ?? null;
    this.direction = current === null || Math.abs(current) < IDLE_A ? 0 : Math.sign(current);
    this.panel.showFlow(this.direction, current);
    this.view.setFlow(this.direction, this.offset);
    this.loop.move(this.direction !== 0 && !this.calm.matches);
    this.loop.changed();
  }

  showTheme() {
    const style = getComputedStyle(this.panel.root), of = (name) => style.getPropertyValue(name).trim();
    this.view.setTheme({ text: style.color, tray: of("--pack3d-tray"), back: of("--card") });
    this.loop.changed();
  }

  // The cell to look at first.
  worst() { return (this.known.by === "temperature" ? this.found.high : this.found.low) ?? 0; }

  choose(cell, byKey = true) {
    this.chosen = cell;
    this.view.highlight(cell);
    if (cell === null) this.panel.showCell(null);
    else this.panel.showCell(this.about(cell), this.view.where(cell), byKey);
    this.loop.changed();
  }

  about(cell) {
    const { known, size } = this, probes = known.temps_c.length;
    return {
      number: cell + 1, module: this.layout.cells[cell].module + 1, voltage: known.voltages_v[cell], charge: known.soc_pct,
      temperature: probes ? known.temps_c[probeOf(cell, probes, size.series)] : null,
      probe: probes ? probeOf(cell, probes, size.series) + 1 : 0,
    };
  }

  resize() {
    const { width, height } = this.panel.stage.getBoundingClientRect();
    if (!width || !height) return;
    this.view.resize(width, height);
    this.loop.changed();
  }

  draw(passed) {
    if (this.direction !== 0 && passed > 0) {
      const speed = SLOWEST + (FASTEST - SLOWEST) * Math.min(1, Math.abs(this.known.current_a) / FAST_A);
      this.offset += this.direction * speed * passed;
      this.view.setFlow(this.direction, this.offset);
    }
    this.view.draw();
    this.container.dataset.frames = Number(this.container.dataset.frames) + 1;
  }

  leave() {
    this.calm.removeEventListener("change", this.onCalm);
    this.theme.disconnect();
    this.panel.dispose();
  }

  dispose() {
    this.leave();
    this.loop.dispose();
    this.sizes.disconnect();
    this.deafen();
    this.view.dispose();
    delete this.container.dataset.renderer;
    delete this.container.dataset.frames;
  }
}
