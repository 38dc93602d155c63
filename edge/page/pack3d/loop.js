// When a picture is drawn: once after something changed; again and again only while something moves, at most 30 times a
// second, and never while nobody can see it.

const FRAME_MS = 1000 / 30;

export class Loop {
  constructor(element, draw) {
    this.draw = draw; // (seconds since the last picture, or 0 after a pause)
    this.moving = false;
    this.asked = null;
    this.last = null;
    this.onScreen = false;
    this.watcher = new IntersectionObserver((entries) => {
      this.onScreen = entries.at(-1).isIntersecting;
      this.changed();
    });
    this.watcher.observe(element);
    this.onVisibility = () => this.changed();
    document.addEventListener("visibilitychange", this.onVisibility);
  }

  get seen() { return this.onScreen && document.visibilityState === "visible"; }

  // Something looks different now.
  changed() {
    this.dirty = true;
    this.ask();
  }

  move(is) {
    if (this.moving === is) return;
    this.moving = is;
    this.changed();
  }

  ask() {
    if (this.asked !== null) return;
    if (this.seen) this.asked = requestAnimationFrame((now) => this.frame(now));
    else this.last = null;
  }

  frame(now) {
    this.asked = null;
    if (!this.seen) return;
    const passed = this.last === null ? 0 : now - this.last;
    if (this.dirty || this.last === null || passed >= FRAME_MS - 4) {
      this.dirty = false;
      this.last = now;
      this.draw(this.moving ? Math.min(passed, 200) / 1000 : 0);
    }
    if (this.moving) this.ask();
    else this.last = null;
  }

  dispose() {
    this.watcher.disconnect();
    document.removeEventListener("visibilitychange", this.onVisibility);
    cancelAnimationFrame(this.asked);
    this.asked = 0; // nothing is asked for any more
  }
}
