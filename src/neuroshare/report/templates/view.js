"use strict";
// The latents in motion: points are splatted into pixels, lines and names drawn over them.
(function () {
  const data = JSON.parse(document.getElementById("view-data").textContent);
  const get = (name) => document.getElementById("view-" + name);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const canvas = get("canvas"), tip = get("tip"), said = get("said");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const place = new Int16Array(bytes(data.place).buffer);
  const trialOf = new Uint16Array(bytes(data.trial).buffer);
  const timeOf = bytes(data.time);
  const n = timeOf.length, nTimes = data.times.length;
  const subjectOf = new Uint8Array(n), conditionOf = new Uint8Array(n);
  for (let i = 0; i < n; i++) {
    subjectOf[i] = data.trials.subject[trialOf[i]];
    conditionOf[i] = data.trials.condition[trialOf[i]];
  }
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Numbers that were packed as shares of their range, or of a turn.
  for (const column of Object.values(data.trials.columns)) if (column.packed) {
    const codes = new Uint16Array(bytes(column.packed).buffer);
    column.numbers = Array.from(codes, (c) => (c === 65535 ? null : column.low + ((column.high - column.low) * c) / 65534));
  }
  const several = data.conditions.length > 1;

  // ---------------------------------------------------------------- state
  const start = { yaw: data.flat ? 0 : 0.5, pitch: data.flat ? 0 : 0.35, zoom: 1 };
  const state = Object.assign({ color: data.first, now: -1, playing: false, picked: -1 }, start);
  const showSubject = data.subjects.map(() => true);
  const showCondition = data.conditions.map(() => true);
  let shown = new Uint8Array(n), colors = new Uint8Array(3 * n), paths = [];
  let width = 0, height = 0, ratio = 1, image = null, waiting = false;
  const px = new Float32Array(n), py = new Float32Array(n), pz = new Float32Array(n);
  const order = new Uint32Array(n), bucket = new Uint16Array(n), counts = new Uint32Array(257);

  const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
  const STOPS = ["#3b4cc0", "#2a788e", "#22a884", "#7ad151", "#fde725"].map(rgb);
  // Of an angle, whose ends meet.
  const RING = ["#e2d9e2", "#95b5c7", "#6276ba", "#592a8f", "#2f1436", "#741e4f", "#b25652", "#cca389", "#e2d9e2"].map(rgb);
  function scaled(x, stops) {
    const at = Math.max(0, Math.min(0.9999, x)) * (stops.length - 1);
    const k = Math.floor(at), f = at - k;
    return [0, 1, 2].map((c) => Math.round(stops[k][c] * (1 - f) + stops[k + 1][c] * f));
  }

  // ---------------------------------------------------------------- what is drawn in which colour
  function groups() {
    if (state.color === "condition") return { of: (i) => conditionOf[i], names: data.conditions, hues: data.conditionColors };
    if (state.color === "subject") return { of: (i) => subjectOf[i], names: data.subjects, hues: data.subjectColors };
    if (state.color === "time") return { value: (i) => data.times[timeOf[i]], unit: "time (s)" };
    const column = data.trials.columns[state.color];
    if (column.values) return { of: (i) => column.codes[trialOf[i]], names: column.values, hues: data.conditionColors };
    const unit = state.color + (column.unit ? " (" + column.unit + ")" : "");
    return { value: (i) => column.numbers[trialOf[i]], unit, turns: column.turns && [column.low, column.high] };
  }
  function recolor() {
    const by = groups();
    const stops = by.turns ? RING : STOPS;
    let [low, high] = by.turns || [Infinity, -Infinity];
    if (by.value && !by.turns) for (let i = 0; i < n; i++) {
      const v = by.value(i);
      if (v !== null) { low = Math.min(low, v); high = Math.max(high, v); }
    }
    for (let i = 0; i < n; i++) {
      let c = [136, 136, 136];
      if (by.value) {
        const v = by.value(i);
        if (v !== null) c = scaled(high > low ? (v - low) / (high - low) : 0.5, stops);
      } else if (by.of(i) >= 0) c = rgb(by.hues[by.of(i) % by.hues.length]);
      colors.set(c, 3 * i);
    }
    const legend = get("legend");
    legend.textContent = "";
    if (by.value) {
      const bar = document.createElement("span");
      bar.className = "scale";
      bar.style.background = "linear-gradient(90deg," + stops.map((c) => "rgb(" + c + ")") + ")";
      legend.append(round(low) + " ", bar, " " + round(high) + " " + by.unit);
    } else if (state.color !== "condition" && state.color !== "subject") {
      by.names.slice(0, 12).forEach((name, k) => legend.append(swatch(by.hues[k % by.hues.length]), " " + name + "  "));
    }
    document.querySelectorAll("#view .swatch[data-kind]").forEach((s) => {
      s.hidden = s.dataset.kind !== state.color;
    });
  }
  function refilter() {
    for (let i = 0; i < n; i++) shown[i] = showSubject[subjectOf[i]] && showCondition[conditionOf[i]] ? 1 : 0;
    // Mean paths over what is shown; every subject weighs the same, as in the still pictures.
    const bySubject = state.color === "subject";
    if (!several) return alongColor();
    const nS = data.subjects.length, nC = data.conditions.length, k = bySubject ? nS * nC : nC;
    const sums = new Float64Array(k * nTimes * nS * 4);
    for (let i = 0; i < n; i++) if (shown[i]) {
      const g = conditionOf[i] + (bySubject ? nC * subjectOf[i] : 0);
      const at = 4 * ((g * nTimes + timeOf[i]) * nS + subjectOf[i]);
      for (let d = 0; d < 3; d++) sums[at + d] += place[3 * i + d];
      sums[at + 3] += 1;
    }
    paths = [];
    for (let g = 0; g < k; g++) {
      const points = [];
      for (let t = 0; t < nTimes; t++) {
        const mean = [0, 0, 0];
        let m = 0;
        for (let s = 0; s < nS; s++) {
          const at = 4 * ((g * nTimes + t) * nS + s);
          if (sums[at + 3]) { m += 1; for (let d = 0; d < 3; d++) mean[d] += sums[at + d] / sums[at + 3]; }
        }
        if (m) points.push([t, mean[0] / m, mean[1] / m, mean[2] / m]);
      }
      let hue = "";
      if (state.color === "condition") hue = data.conditionColors[g % data.conditionColors.length];
      if (bySubject) hue = data.subjectColors[Math.floor(g / nC) % data.subjectColors.length];
      if (points.length) paths.push({ name: data.conditions[g % nC], hue, points });
    }
  }

  // Without conditions: the mean path along what colours, closed for an angle.
  function alongColor() {
    const by = groups(), bins = 20;
    paths = [];
    if (!by.value || state.color === "time") return;
    let [low, high] = by.turns || [Infinity, -Infinity];
    if (!by.turns) for (let i = 0; i < n; i++) {
      const v = by.value(i);
      if (v !== null) { low = Math.min(low, v); high = Math.max(high, v); }
    }
    const sums = new Float64Array(bins * 4);
    for (let i = 0; i < n; i++) {
      const v = by.value(i);
      if (!shown[i] || v === null || !(high > low)) continue;
      const at = 4 * Math.min(bins - 1, Math.floor((bins * (v - low)) / (high - low)));
      for (let d = 0; d < 3; d++) sums[at + d] += place[3 * i + d];
      sums[at + 3] += 1;
    }
    const points = [];
    for (let at = 0; at < sums.length; at += 4) if (sums[at + 3])
      points.push([0, ...[0, 1, 2].map((d) => sums[at + d] / sums[at + 3])]);
    if (by.turns && points.length) points.push(points[0]);
    if (points.length) paths.push({ name: "", hue: "", points });
  }

  // ---------------------------------------------------------------- drawing
  const masks = new Map();
  function mask(radius) {
    const key = Math.round(radius * 4);
    if (!masks.has(key)) {
      const r = key / 4, h = Math.ceil(r), side = 2 * h + 1, alpha = new Uint8Array(side * side);
      for (let y = -h; y <= h; y++) for (let x = -h; x <= h; x++)
        alpha[(y + h) * side + x + h] = 255 * Math.max(0, Math.min(1, r + 0.5 - Math.hypot(x, y)));
      masks.set(key, { h, side, alpha });
    }
    return masks.get(key);
  }
  let turn = [];
  function setTurn() {
    const a = Math.cos(state.yaw), b = Math.sin(state.yaw), c = Math.cos(state.pitch), d = Math.sin(state.pitch);
    const s = state.zoom * 0.42 * Math.min(width, height * 1.25) / 32767;
    turn = [a * s, 0, b * s, d * b * s, c * s, -d * a * s, -c * b * s, d * s, c * a * s];
  }
  function project(x, y, z) {
    return [
      width / 2 + turn[0] * x + turn[1] * y + turn[2] * z,
      height / 2 - (turn[3] * x + turn[4] * y + turn[5] * z),
      turn[6] * x + turn[7] * y + turn[8] * z,
    ];
  }
  function draw() {
    waiting = false;
    if (!width) return;
    const style = getComputedStyle(get("stage") || canvas.parentElement);
    const ink = style.getPropertyValue("--text").trim() || "#222", soft = style.getPropertyValue("--soft").trim() || "#555";
    const back = rgb((style.getPropertyValue("--box").trim() || "#ffffff").padEnd(7, "0"));
    setTurn();
    const pixels = image.data, whole = new Uint32Array(pixels.buffer);
    whole.fill((255 << 24) | (back[2] << 16) | (back[1] << 8) | back[0]);
    const reach = state.zoom * 0.42 * Math.min(width, height * 1.25) * 1.8;
    counts.fill(0);
    for (let i = 0; i < n; i++) {
      const x = place[3 * i], y = place[3 * i + 1], z = place[3 * i + 2];
      px[i] = width / 2 + turn[0] * x + turn[1] * y + turn[2] * z;
      py[i] = height / 2 - (turn[3] * x + turn[4] * y + turn[5] * z);
      pz[i] = turn[6] * x + turn[7] * y + turn[8] * z;
      const at = Math.max(0, Math.min(255, Math.floor(128 + (127 * pz[i]) / reach)));
      bucket[i] = at;
      counts[at + 1] += 1;
    }
    for (let k = 0; k < 256; k++) counts[k + 1] += counts[k];
    for (let i = 0; i < n; i++) order[counts[bucket[i]]++] = i;
    let visible = 0;
    for (let i = 0; i < n; i++) visible += shown[i];
    const few = Math.max(0.35, Math.min(0.85, 900 / Math.max(visible, 1) + 0.25));
    const size = ratio * Math.max(1.6, Math.min(3.2, 1.5 + 60 / Math.sqrt(Math.max(visible, 1))));
    for (let o = 0; o < n; o++) {
      const i = order[o];
      if (!shown[i]) continue;
      const away = state.now < 0 ? 0 : Math.abs(timeOf[i] - state.now);
      if (away > 1) continue;
      const strength = (state.now < 0 ? few : away ? 0.35 : 0.9) * 256;
      const near = 0.85 + (0.3 * (bucket[i] - 64)) / 128;
      const m = mask(Math.max(1, size * near * (state.now < 0 ? 1 : 1.35)));
      const x0 = Math.round(px[i]) - m.h, y0 = Math.round(py[i]) - m.h;
      if (x0 < 0 || y0 < 0 || x0 + m.side > width || y0 + m.side > height) continue;
      const r = colors[3 * i], g = colors[3 * i + 1], b = colors[3 * i + 2];
      for (let y = 0, k = 0; y < m.side; y++) {
        let at = 4 * ((y0 + y) * width + x0);
        for (let x = 0; x < m.side; x++, k++, at += 4) {
          const alpha = (m.alpha[k] * strength) >> 8;
          if (!alpha) continue;
          pixels[at] += ((r - pixels[at]) * alpha) >> 8;
          pixels[at + 1] += ((g - pixels[at + 1]) * alpha) >> 8;
          pixels[at + 2] += ((b - pixels[at + 2]) * alpha) >> 8;
        }
      }
    }
    context.putImageData(image, 0, 0);
    context.lineJoin = "round";
    context.font = 12 * ratio + "px system-ui, sans-serif";
    drawAxes(soft);
    if (get("paths").checked) paths.forEach((path) => drawPath(path, ink, back));
    if (state.picked >= 0) {
      context.beginPath();
      context.arc(px[state.picked], py[state.picked], 7 * ratio, 0, 7);
      context.strokeStyle = ink;
      context.lineWidth = 2 * ratio;
      context.stroke();
    }
  }
  function drawAxes(soft) {
    const edge = data.flat ? 32767 : 27000, corner = [-edge, -edge, data.flat ? 0 : -edge];
    context.strokeStyle = context.fillStyle = soft;
    context.lineWidth = ratio;
    const names = data.axes.slice(0, data.flat ? 2 : 3);
    names.forEach((name, d) => {
      const end = corner.slice();
      end[d] = edge;
      const a = project(...corner), b = project(...end);
      context.beginPath();
      context.moveTo(a[0], a[1]);
      context.lineTo(b[0], b[1]);
      context.stroke();
      const length = context.measureText(name).width;
      const x = Math.max(4, Math.min(width - length - 4, b[0] - (d === 0 ? length : 0)));
      context.fillText(name, x, Math.max(14 * ratio, Math.min(height - 6, b[1] + (d === 0 ? 15 : -6) * ratio)));
    });
  }
  function drawPath(path, ink, back) {
    const upto = state.now < 0 ? path.points : path.points.filter((p) => p[0] <= state.now);
    if (!upto.length) return;
    const at = upto.map((p) => project(p[1], p[2], p[3]));
    for (const [hue, w] of [["rgb(" + back + ")", 6], [path.hue || ink, 3]]) {
      context.beginPath();
      at.forEach((p, k) => (k ? context.lineTo(p[0], p[1]) : context.moveTo(p[0], p[1])));
      context.strokeStyle = hue;
      context.lineWidth = w * ratio;
      context.stroke();
    }
    context.fillStyle = path.hue || ink;
    const head = state.now < 0 ? at[0] : at[at.length - 1];
    context.beginPath();
    context.arc(head[0], head[1], 4.5 * ratio, 0, 7);
    context.fill();
    const end = at[at.length - 1];
    context.lineWidth = 4 * ratio;
    context.strokeStyle = "rgb(" + back + ")";
    context.strokeText(path.name, end[0] + 7 * ratio, end[1] - 5 * ratio);
    context.fillStyle = ink;
    context.fillText(path.name, end[0] + 7 * ratio, end[1] - 5 * ratio);
  }
  function ask() {
    if (!waiting) { waiting = true; requestAnimationFrame(draw); }
  }
  function resize() {
    ratio = Math.min(2, window.devicePixelRatio || 1);
    width = canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    height = canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    image = context.createImageData(width, height);
    ask();
  }

  // ---------------------------------------------------------------- what a point is
  const round = (v) => (v === null ? "none" : String(+Number(v).toPrecision(4)));
  function describe(i) {
    const t = trialOf[i];
    const lines = [data.subjects[subjectOf[i]] + ", trial " + data.trials.id[t], (several ? data.by + " " + data.conditions[conditionOf[i]] + ", " : "") + round(data.times[timeOf[i]]) + " s"];
    const column = data.trials.columns[state.color];
    if (column) {
      const value = column.values ? column.values[column.codes[t]] : round(column.numbers[t]);
      lines.push(state.color + " " + (value === undefined ? "none" : value));
    }
    return lines.join("\n");
  }
  function pick(i, aloud) {
    state.picked = i;
    tip.hidden = i < 0;
    if (i >= 0) {
      tip.textContent = describe(i);
      const x = px[i] / ratio, y = py[i] / ratio;
      tip.style.left = Math.min(x + 12, canvas.clientWidth - tip.offsetWidth - 4) + "px";
      tip.style.top = Math.max(4, y - tip.offsetHeight - 8) + "px";
      if (aloud) said.textContent = tip.textContent.replace("\n", ", ");
    }
    ask();
  }
  function nearest(x, y) {
    let best = -1, least = (12 * ratio) ** 2;
    for (let i = 0; i < n; i++) {
      if (!shown[i] || (state.now >= 0 && Math.abs(timeOf[i] - state.now) > 1)) continue;
      const d = (px[i] - x) ** 2 + (py[i] - y) ** 2 - pz[i] * 1e-6;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }
  function step(by) {
    let i = state.picked;
    for (let k = 0; k < n; k++) {
      i = (i + by + n) % n;
      if (shown[i] && (state.now < 0 || timeOf[i] === state.now)) return pick(i, true);
    }
  }

  // ---------------------------------------------------------------- controls
  function setTime(t) {
    state.now = t;
    get("time").value = t + 1;
    get("now").textContent = t < 0 ? "all" : round(data.times[t]) + " s";
    get("time").setAttribute("aria-valuetext", get("now").textContent);
    if (t >= 0) state.picked = -1, (tip.hidden = true);
    ask();
  }
  let last = 0;
  function tick(now) {
    if (!state.playing) return;
    const pace = still.matches ? 500 : Math.max(60, 3000 / nTimes);
    if (now - last > pace) { last = now; setTime((state.now + 1) % nTimes); }
    requestAnimationFrame(tick);
  }
  function play(on) {
    state.playing = on;
    get("play").textContent = on ? "Pause" : "Play";
    get("play").setAttribute("aria-pressed", String(on));
    if (on) requestAnimationFrame(tick);
  }
  function rotate(yaw, pitch) {
    if (data.flat) return;
    state.yaw += yaw;
    state.pitch = Math.max(-1.57, Math.min(1.57, state.pitch + pitch));
    tip.hidden = true;
    ask();
  }
  function zoom(by) { state.zoom = Math.max(0.4, Math.min(12, state.zoom * by)); tip.hidden = true; ask(); }
  function swatch(hue, kind) {
    const s = document.createElement("span");
    s.className = "swatch";
    s.style.background = hue;
    if (kind) s.dataset.kind = kind;
    return s;
  }
  function boxes(where, names, hues, kind, flags) {
    names.forEach((name, k) => {
      const label = document.createElement("label"), box = document.createElement("input");
      box.type = "checkbox";
      box.checked = true;
      box.addEventListener("change", () => { flags[k] = box.checked; pick(-1); refilter(); ask(); });
      label.append(box, swatch(hues[k % hues.length], kind), " " + name);
      get(where).append(label);
    });
  }
  boxes("subjects", data.subjects, data.subjectColors, "subject", showSubject);
  boxes("conditions", data.conditions, data.conditionColors, "condition", showCondition);
  get("by").textContent = data.by;
  get("conditions").style.display = several ? "" : "none";
  const moves = nTimes > 1;
  for (const name of ["play", "time"]) get(name).disabled = !moves;
  [...(several ? [["condition", data.by]] : []), ["subject", "animal"], ...(moves ? [["time", "time"]] : []), ...Object.keys(data.trials.columns).map((c) => [c, c])].forEach(([value, name]) => get("color").add(new Option(name, value)));
  get("color").value = state.color;
  get("color").addEventListener("change", (e) => { state.color = e.target.value; recolor(); refilter(); pick(-1); });
  get("time").max = nTimes;
  get("time").addEventListener("input", (e) => { play(false); setTime(e.target.value - 1); });
  get("play").addEventListener("click", () => play(!state.playing));
  get("paths").addEventListener("change", ask);
  get("in").addEventListener("click", () => zoom(1.25));
  get("out").addEventListener("click", () => zoom(0.8));
  function reset() {
    document.querySelectorAll("#view fieldset input").forEach((box) => (box.checked = true));
    showSubject.fill(true);
    showCondition.fill(true);
    Object.assign(state, start);
    play(false);
    refilter();
    pick(-1);
    setTime(-1);
  }
  get("reset").addEventListener("click", reset);
  canvas.addEventListener("keydown", (e) => {
    const moves = {
      ArrowLeft: () => rotate(-0.1, 0), ArrowRight: () => rotate(0.1, 0), ArrowUp: () => rotate(0, 0.1), ArrowDown: () => rotate(0, -0.1),
      "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), " ": () => play(!state.playing),
      ".": () => step(1), ",": () => step(-1), Home: reset, Escape: () => pick(-1),
    };
    if (moves[e.key] && !e.ctrlKey && !e.metaKey && !e.altKey) { e.preventDefault(); moves[e.key](); }
  });
  const fingers = new Map();
  canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, [e.offsetX, e.offsetY]); });
  canvas.addEventListener("pointermove", (e) => {
    const from = fingers.get(e.pointerId), to = [e.offsetX, e.offsetY];
    if (!from) { pick(nearest(to[0] * ratio, to[1] * ratio)); return; }
    if (fingers.size === 1) rotate((to[0] - from[0]) / 150, (to[1] - from[1]) / 150);
    else {
      const [other] = [...fingers].filter(([id]) => id !== e.pointerId).map(([, p]) => p);
      const before = Math.hypot(from[0] - other[0], from[1] - other[1]), after = Math.hypot(to[0] - other[0], to[1] - other[1]);
      if (before > 0) zoom(after / before);
    }
    fingers.set(e.pointerId, to);
  });
  const lift = (e) => {
    if (fingers.delete(e.pointerId) && e.pointerType === "touch") pick(nearest(e.offsetX * ratio, e.offsetY * ratio), true);
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", () => { if (!fingers.size) pick(-1); });
  canvas.addEventListener("wheel", (e) => { if (e.ctrlKey || document.activeElement === canvas) { e.preventDefault(); zoom(e.deltaY < 0 ? 1.1 : 0.9); } }, { passive: false });
  dark.addEventListener("change", ask);
  new ResizeObserver(resize).observe(canvas);
  recolor();
  refilter();
  setTime(-1);
  resize();
  // For tests: what is drawn, and how long a frame takes.
  window.neuroshareView = { state, n, draw, shown: () => shown.reduce((a, b) => a + b, 0), at: (i) => [px[i] / ratio, py[i] / ratio], paths: () => paths.map((p) => p.name) };
})();
