// Draws what widgets_chart.py sends: numbers in, a canvas out. It asks nobody for anything, and knows light from dark.
// A picture is drawn when its data, its width or JupyterLab's theme changes, and at no other time.

const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"]; // Okabe and Ito
const ON_DARK = ["#56B4E9", "#E69F00", "#2ec4a0", "#e39fc6", "#9ad1f2", "#ff8a4c"];
const DASHES = [[], [7, 3], [2, 2], [9, 3, 2, 3], [4, 4], [1, 3]]; // no meaning hangs on colour alone
const FONT = "12px system-ui, sans-serif";
const LEFT = 76, RIGHT = 14, TOP = 24, BOTTOM = 26;

function words(value, unit) {
  if (!Number.isFinite(value)) return "–";
  if (unit === "share") return `${+(value * 100).toPrecision(3)} %`;
  if (unit.startsWith("bytes")) {
    const per = unit.slice(5);
    for (const [size, word] of [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]])
      if (Math.abs(value) >= size) return `${+(value / size).toPrecision(3)} ${word}${per}`;
    return `${Math.round(value)} B${per}`;
  }
  const number = Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : `${+value.toPrecision(3)}`;
  return unit ? `${number} ${unit}` : number;
}

function steps(low, high, most, unit) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const base = unit.startsWith("bytes") ? 2 : 10;
  let step = base ** Math.floor(Math.log(span / most) / Math.log(base));
  for (const factor of base === 2 ? [1, 2, 4, 8] : [1, 2, 5, 10, 20])
    if (span / (step * factor) <= most) { step *= factor; break; }
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(at);
  return found;
}

class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.g = canvas.getContext("2d");
  }

  begin(frame, width) {
    const ratio = window.devicePixelRatio || 1, height = frame.height;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.canvas.style.height = `${height}px`;
    }
    const style = getComputedStyle(this.canvas), dark = document.body.dataset.jpThemeLight === "false";
    this.ink = style.getPropertyValue("--jp-ui-font-color1").trim() || "#222";
    this.faint = dark ? "#5a5a5a" : "#d8d8d8";
    this.paper = style.getPropertyValue("--jp-layout-color0").trim() || "#fff";
    this.dark = dark;
    this.colours = dark ? ON_DARK : COLOURS;
    this.left = frame.rows ? Math.min(220, 20 + Math.max(...frame.rows.map((r) => r.length), 1) * 7) : LEFT;
    this.width = width; this.height = height; this.right = width - RIGHT; this.bottom = height - BOTTOM;
    const g = this.g;
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    g.font = FONT; g.lineWidth = 1; g.setLineDash([]);
    this.x0 = frame.x[0]; this.x1 = frame.x[1] > frame.x[0] ? frame.x[1] : frame.x[0] + 1;
  }

  atX(x) { return this.left + ((x - this.x0) / (this.x1 - this.x0)) * (this.right - this.left); }
  atY(y, top) { return this.bottom - (y / top) * (this.bottom - TOP); }

  text(words, x, y, align = "left", base = "middle", colour = this.ink) {
    this.g.fillStyle = colour; this.g.textAlign = align; this.g.textBaseline = base;
    this.g.fillText(words, x, y);
  }

  line(x, y, x2, y2, colour, width = 1) {
    const g = this.g;
    g.strokeStyle = colour; g.lineWidth = width;
    g.beginPath(); g.moveTo(x, y); g.lineTo(x2, y2); g.stroke();
  }

  axisX(frame) {
    for (const at of steps(this.x0, this.x1, Math.max(2, Math.floor((this.right - this.left) / 110)), "")) {
      const x = this.atX(at);
      this.line(x, TOP, x, this.bottom, this.faint);
      this.text(words(at, frame.x_unit), Math.min(x, this.width - 24), this.height - 12, "center");
    }
  }

  marks(frame) {
    for (const [at, said] of frame.marks ?? []) {
      if (at < this.x0 || at > this.x1) continue;
      const x = this.atX(at), g = this.g;
      g.setLineDash([4, 3]); this.line(x, TOP, x, this.bottom, this.dark ? "#ff8a4c" : "#D55E00", 1.5); g.setLineDash([]);
      const late = x > this.right - 90;
      this.text(said, late ? x - 4 : x + 4, TOP + 8, late ? "right" : "left");
    }
  }

  legend(names) {
    let x = this.left;
    names.forEach((name, i) => {
      const g = this.g;
      g.setLineDash(DASHES[i % 6]); this.line(x, 11, x + 22, 11, this.colours[i % 6], 2.5); g.setLineDash([]);
      this.text(name, x + 27, 11);
      x += 40 + g.measureText(name).width;
    });
  }

  lines(frame, values) {
    const n = frame.count, series = frame.names.length, g = this.g;
    let top = frame.top ?? 0;
    if (!frame.top) for (let i = n; i < n * (series + 1); i++) if (values[i] > top) top = values[i];
    top = (top || 1) * (frame.top ? 1 : 1.1);
    for (const at of steps(0, top, 4, frame.unit)) {
      const y = this.atY(at, top);
      this.line(this.left, y, this.right, y, this.faint);
      this.text(words(at, frame.unit), this.left - 7, y, "right");
    }
    this.axisX(frame);
    g.save(); g.beginPath(); g.rect(this.left, TOP - 2, this.right - this.left, this.bottom - TOP + 4); g.clip();
    for (let s = 0; s < series; s++) {
      g.strokeStyle = this.colours[s % 6]; g.lineWidth = 1.8; g.setLineDash(DASHES[s % 6]);
      g.beginPath();
      let down = false;
      for (let i = 0; i < n; i++) {
        const value = values[n * (s + 1) + i];
        if (!Number.isFinite(value)) { down = false; continue; } // what was not known is a gap
        const x = this.atX(values[i]), y = this.atY(value, top);
        if (down) g.lineTo(x, y); else g.moveTo(x, y);
        down = true;
      }
      g.stroke();
    }
    g.restore();
    this.legend(frame.names.map((name, s) => {
      const last = values[n * (s + 2) - 1];
      return n ? `${name} ${words(last, frame.unit)}` : name;
    }));
    this.marks(frame);
  }

  rowLabels(frame) {
    const high = (this.bottom - TOP) / Math.max(1, frame.rows.length), every = Math.ceil(13 / high);
    frame.rows.forEach((row, i) => {
      if (i % every === 0) this.text(row, this.left - 7, TOP + (i + 0.5) * high, "right");
    });
    return high;
  }

  heat(frame, values) {
    const n = frame.count, g = this.g, high = this.rowLabels(frame);
    for (let s = 0; s < frame.rows.length; s++)
      for (let i = 0; i < n; i++) {
        const value = values[n * (s + 1) + i];
        if (!Number.isFinite(value)) continue;
        const x = this.atX(i ? values[i - 1] : values[0] - (n > 1 ? values[1] - values[0] : 0)), end = this.atX(values[i]);
        if (end < this.left) continue;
        g.fillStyle = this.dark ? `rgba(86,180,233,${0.08 + 0.92 * value})` : `rgba(0,90,150,${0.06 + 0.94 * value})`;
        const from = Math.max(x, this.left);
        g.fillRect(from, TOP + s * high + 0.5, Math.max(1, end - from + 0.4), Math.max(1, high - 1));
      }
    this.axisX(frame);
    this.text(frame.note ?? "", this.left, 11);
    this.marks(frame);
  }

  bars(frame, values) { // start, end, row, kind: 1 stolen, 2 failed, 3 both
    const g = this.g, high = this.rowLabels(frame);
    this.axisX(frame);
    const bad = this.dark ? "#ff8a4c" : "#D55E00";
    g.save(); g.beginPath(); g.rect(this.left, TOP - 2, this.right - this.left, this.bottom - TOP + 4); g.clip();
    for (let i = 0; i + 3 < values.length; i += 4) {
      const x = this.atX(values[i]), wide = Math.max(1.5, this.atX(values[i + 1]) - x), kind = values[i + 3];
      if (x + wide < this.left) continue;
      const y = TOP + values[i + 2] * high + high * 0.12, tall = high * 0.76;
      g.fillStyle = kind >= 2 ? bad : this.colours[0];
      g.fillRect(x, y, wide, tall);
      if (kind >= 2) { this.line(x, y, x + wide, y + tall, this.ink, 1); }
      if (kind % 2) { g.fillStyle = this.colours[1]; g.fillRect(x, y, wide, Math.max(3, tall * 0.3)); }
      if (wide > 3) { g.strokeStyle = this.paper; g.lineWidth = 0.7; g.strokeRect(x, y, wide, tall); }
    }
    g.restore();
    let x = this.left;
    for (const [colour, name] of [[this.colours[0], "ran"], [this.colours[1], "stolen (band on top)"], [bad, "failed or cancelled (struck)"]]) {
      g.fillStyle = colour; g.fillRect(x, 6, 14, 10);
      this.text(name, x + 19, 11);
      x += 34 + g.measureText(name).width;
    }
    this.marks(frame);
  }

  dots(frame, values) { // low, middle, high for each row; a dashed line is the baseline
    const g = this.g, high = this.rowLabels(frame);
    this.axisX(frame);
    if (frame.limit != null) {
      const x = this.atX(frame.limit);
      g.setLineDash([5, 4]); this.line(x, TOP, x, this.bottom, this.dark ? "#ff8a4c" : "#D55E00", 1.5); g.setLineDash([]);
    }
    frame.rows.forEach((row, i) => {
      const [low, at, top] = values.slice(3 * i, 3 * i + 3), y = TOP + (i + 0.5) * high;
      if (!Number.isFinite(at)) return;
      if (Number.isFinite(low) && Number.isFinite(top)) {
        this.line(this.atX(low), y, this.atX(top), y, this.colours[0], 2);
        for (const end of [low, top]) this.line(this.atX(end), y - 5, this.atX(end), y + 5, this.colours[0], 2);
      }
      g.fillStyle = this.colours[0];
      g.beginPath(); g.arc(this.atX(at), y, 4.5, 0, 7); g.fill();
    });
    this.text(frame.note ?? "", this.left, 11);
  }
}

export default {
  render({ model, el }) {
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.style.cssText = "display:block;width:100%";
    el.classList.add("procbench-chart");
    el.appendChild(canvas);
    const picture = new Picture(canvas);
    let asked = 0;
    const draw = () => {
      asked = 0;
      const frame = model.get("frame"), width = el.clientWidth;
      canvas.setAttribute("aria-label", model.get("label"));
      if (!frame.kind || width < 40) return;
      const view = frame.data, values = new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
      picture.begin(frame, width);
      picture[frame.kind](frame, values);
      canvas.dataset.drawn = String(Number(canvas.dataset.drawn ?? 0) + 1);
    };
    const ask = () => { asked = asked || requestAnimationFrame(draw); }; // a page that is not looked at draws nothing
    model.on("change:frame", ask);
    model.on("change:label", ask);
    const wide = new ResizeObserver(ask), theme = new MutationObserver(ask);
    wide.observe(el);
    theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
    ask();
    return () => {
      cancelAnimationFrame(asked);
      model.off("change:frame", ask);
      model.off("change:label", ask);
      wide.disconnect();
      theme.disconnect();
    };
  },
};
