// Lines over the last minutes on a canvas: few pixels, few calls. The same numbers stand in a table beside it.

const LEFT = 44, RIGHT = 8, TOP = 6, BOTTOM = 18;

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw);
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9; v += step) found.push(v);
  return [found, step];
}

/** Draws `lines` ({values, colour, wide, dash, step}) and `marks` ({at, colour}) with unit on the axis. */
export function draw(canvas, lines, { step_s, marks = [], low = null, high = null, scale = 1, span: least = 0 }) {
  const box = canvas.getBoundingClientRect();
  if (!box.width) return;
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(box.width * ratio)) canvas.width = Math.round(box.width * ratio);
  if (canvas.height !== Math.round(box.height * ratio)) canvas.height = Math.round(box.height * ratio);
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, box.width, box.height);
  const all = lines.flatMap((line) => line.values.filter((v) => v !== null));
  const seen = [...all, ...marks.filter((mark) => mark.always).map((mark) => mark.at)];
  let bottom = low ?? Math.min(...seen), top = high ?? Math.max(...seen);
  if (!seen.length) [bottom, top] = [low ?? 0, high ?? scale];
  if (top - bottom < least) [bottom, top] = [(top + bottom - least) / 2, (top + bottom + least) / 2];
  const room = Math.max((top - bottom) * 0.08, 0.3 * scale);
  if (low === null) bottom -= room;
  if (high === null) top += room;
  const width = box.width - LEFT - RIGHT, height = box.height - TOP - BOTTOM;
  const count = Math.max(...lines.map((line) => line.values.length), 2);
  const span = Math.max(count - 1, step_s > 60 ? 1 : 299);
  const x = (k, n) => LEFT + width * (1 - (n - 1 - k) / span);
  const y = (v) => TOP + height * (1 - (v - bottom) / (top - bottom));
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  pen.lineWidth = 1;
  const [found, step] = ticks(bottom / scale, top / scale, 4);
  for (const v of found) {
    pen.strokeStyle = css("--rule");
    pen.beginPath();
    pen.moveTo(LEFT, y(v * scale));
    pen.lineTo(LEFT + width, y(v * scale));
    pen.stroke();
    pen.fillStyle = css("--quiet");
    pen.fillText(v.toFixed(step < 1 ? (step < 0.1 ? 2 : 1) : 0), LEFT - 6, y(v * scale));
  }
  pen.textAlign = "center";
  pen.textBaseline = "alphabetic";
  const minutes = (span * step_s) / 60;
  const every = minutes > 300 ? 240 : minutes > 8 ? 5 : minutes > 3 ? 2 : 1;
  for (let m = 0; m <= minutes; m += every) {
    const at = LEFT + width * (1 - (m * 60) / (span * step_s));
    if (at > LEFT + 8) pen.fillText(m === 0 ? "now" : every === 240 ? `−${m / 60} h` : `−${m} min`, Math.min(at, LEFT + width - 10), box.height - 4);
  }
  for (const mark of marks) {
    if (mark.at < bottom || mark.at > top) continue;
    pen.strokeStyle = css(mark.colour);
    pen.setLineDash([5, 4]);
    pen.beginPath();
    pen.moveTo(LEFT, y(mark.at));
    pen.lineTo(LEFT + width, y(mark.at));
    pen.stroke();
    pen.setLineDash([]);
  }
  for (const line of lines) {
    pen.strokeStyle = css(line.colour);
    pen.lineWidth = line.wide ?? 1.6;
    pen.beginPath();
    let open = false, last = 0, alone = null;
    const dot = () => alone !== null && pen.rect(alone[0] - 1, alone[1] - 1, 2, 2);
    line.values.forEach((v, k) => {
      if (v === null) {
        dot();
        open = false;
        alone = null;
        return;
      }
      const at = x(k, line.values.length);
      if (!open) {
        pen.moveTo(at, y(v));
        alone = [at, y(v)];
      } else {
        alone = null;
        if (line.step) pen.lineTo(at, y(last));
        pen.lineTo(at, y(v));
      }
      open = true;
      last = v;
    });
    dot();
    pen.stroke();
  }
}
