/* A list of any length of which only what is in sight is in the page: cards in columns, used by keyboard or pointer. */

const GAP = 8;

class Listing {
  /**
   * box: element that becomes the listbox. Options: label; height and least width of a card; card(item) its element's
   * content; name(item) what a screen reader says; selected(item, opened); key(event, item), true where it was used.
   * scroller: element that scrolls, the window if left out.
   */
  constructor(box, options) {
    Object.assign(this, { box, scroller: null, key: () => false, selected: () => {} }, options);
    this.items = [];
    this.at = 0;
    this.cards = new Map();
    box.setAttribute("role", "listbox");
    box.setAttribute("aria-label", options.label);
    box.addEventListener("keydown", (event) => this.pressed(event));
    box.addEventListener("click", (event) => this.clicked(event));
    (this.scroller ?? window).addEventListener("scroll", () => this.paint(), { passive: true });
    new ResizeObserver(() => this.arrange()).observe(box);
  }

  /** Show other items; `at` is the one to be on. */
  show(items, at = 0) {
    this.items = items;
    this.at = Math.max(0, Math.min(at, items.length - 1));
    this.empty();
    this.arrange();
  }

  /** Draw a card anew, after what it shows has changed. */
  refresh(index) {
    const card = this.cards.get(index);
    if (card) this.fill(card, index);
  }

  get current() {
    return this.items[this.at];
  }

  empty() {
    this.cards.forEach((card) => card.remove());
    this.cards.clear();
  }

  arrange() {
    const room = this.box.clientWidth;
    if (!room) return;
    this.columns = Math.max(1, Math.floor((room + GAP) / (this.width + GAP)));
    this.across = (room - GAP * (this.columns - 1)) / this.columns;
    const rows = Math.ceil(this.items.length / this.columns);
    this.box.style.height = `${Math.max(0, rows * (this.height + GAP) - GAP)}px`;
    this.cards.forEach((card, index) => this.place(card, index));
    this.paint();
  }

  /** First row in sight, and how many fit. */
  sight() {
    const top = this.scroller ? this.scroller.getBoundingClientRect().top : 0;
    const room = this.scroller ? this.scroller.clientHeight : window.innerHeight;
    const pitch = this.height + GAP;
    return { first: Math.floor((top - this.box.getBoundingClientRect().top) / pitch), fit: Math.ceil(room / pitch) };
  }

  paint() {
    if (!this.columns || !this.box.clientWidth) return;
    const { first, fit } = this.sight();
    const from = Math.max(0, (first - 2) * this.columns);
    const to = Math.min(this.items.length, (first + fit + 3) * this.columns);
    this.cards.forEach((card, index) => {
      if ((index < from || index >= to) && index !== this.at) {
        card.remove();
        this.cards.delete(index);
      }
    });
    for (let index = from; index < to; index += 1) this.draw(index);
    if (this.items.length) this.draw(this.at);
  }

  draw(index) {
    if (this.cards.has(index)) return;
    const card = element("div", { role: "option", class: "card", "aria-setsize": this.items.length, "aria-posinset": index + 1 });
    card.dataset.index = index;
    this.cards.set(index, card);
    this.fill(card, index);
    this.place(card, index);
    const after = Array.from(this.box.children).find((other) => Number(other.dataset.index) > index);
    this.box.insertBefore(card, after ?? null); // in reading order, whatever was scrolled past first
  }

  fill(card, index) {
    const item = this.items[index];
    card.replaceChildren(...this.card(item, card));
    card.setAttribute("aria-label", this.name(item));
    this.state(card, index);
  }

  state(card, index) {
    card.tabIndex = index === this.at ? 0 : -1;
    card.setAttribute("aria-selected", index === this.at);
  }

  place(card, index) {
    card.style.width = `${this.across}px`;
    card.style.height = `${this.height}px`;
    card.style.left = `${(index % this.columns) * (this.across + GAP)}px`;
    card.style.top = `${Math.floor(index / this.columns) * (this.height + GAP)}px`;
  }

  /** Go to an item; `opened` where Enter or a click led to it. */
  go(index, { focus = true, opened = false } = {}) {
    if (!this.items.length) return;
    const before = this.at;
    this.at = Math.max(0, Math.min(index, this.items.length - 1));
    this.draw(this.at);
    for (const index of new Set([before, this.at])) {
      const card = this.cards.get(index);
      if (card) this.state(card, index);
    }
    if (focus) {
      this.reveal();
      this.cards.get(this.at).focus({ preventScroll: true });
    }
    this.selected(this.current, opened);
  }

  reveal() {
    this.cards.get(this.at).scrollIntoView({ block: "nearest" });
    this.paint();
  }

  clicked(event) {
    const card = event.target.closest("[role=option]");
    if (card) this.go(Number(card.dataset.index), { opened: true });
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.items.length) return;
    const page = this.columns * Math.max(1, this.sight().fit - 2);
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns, PageUp: -page, PageDown: page };
    if (event.key in moves) {
      const to = this.at + moves[event.key];
      this.go(to < 0 ? (event.key === "PageUp" ? 0 : this.at) : to);
    } else if (event.key === "Home") this.go(0);
    else if (event.key === "End") this.go(this.items.length - 1);
    else if (event.key === "Enter" || event.key === " ") this.go(this.at, { opened: true });
    else if (!this.key(event, this.current)) return;
    event.preventDefault();
  }
}
