// Marks over a radiograph. They have a dark rim, so that they are legible on bone and on air at any zoom.

import { numberPlaces } from "./numbers.js";

const [LONGEST_HEAD, HALF_HEAD, SHAFT, RIM] = [18, 0.38, 0.16, 2]; // the head and the rim in page pixels, the others as shares of the head
const DASH = 3.2; // in shaft widths
const RING = 11; // radius in page pixels
const NUMBER = { font: 17, width: 15, height: 18 }; // of the number of an arrow, in page pixels

/** Draw arrows, {tip, tail, isDashed}, and their numbers if there are several. */
export function drawArrows(context, arrows, sharpness) {
  for (const arrow of arrows) drawArrow(context, arrow, sharpness);
  if (arrows.length > 1) drawNumbers(context, arrows, sharpness);
}

/** Draw an arrow between two points of the canvas. A dashed arrow marks a doubtful location. */
function drawArrow(context, { tip, tail, isDashed }, sharpness) {
  const [dx, dy] = [tail[0] - tip[0], tail[1] - tip[1]];
  const length = Math.hypot(dx, dy);
  if (length === 0) return;
  const head = Math.min(LONGEST_HEAD * sharpness, 0.6 * length);
  context.save();
  context.translate(...tip);
  context.rotate(Math.atan2(dy, dx));
  context.beginPath();
  context.moveTo(0, 0);
  context.lineTo(head, HALF_HEAD * head);
  context.lineTo(head, -HALF_HEAD * head);
  context.closePath();
  const half = (SHAFT * head) / 2;
  const dash = isDashed ? DASH * 2 * half : length;
  for (let start = head; start < length; start += 2 * dash) {
    context.rect(start, -half, Math.min(dash, length - start), 2 * half);
  }
  ink(context, sharpness);
  context.restore();
}

/** Draw the number of each arrow beside its tail. */
function drawNumbers(context, arrows, sharpness) {
  const box = { width: NUMBER.width * sharpness, height: NUMBER.height * sharpness };
  context.save();
  context.font = `600 ${NUMBER.font * sharpness}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (const [index, [x, y]] of numberPlaces(arrows, context.canvas, box).entries()) {
    context.lineJoin = "round";
    context.lineWidth = 2 * RIM * sharpness;
    context.strokeStyle = "#0c0c0c";
    context.strokeText(index + 1, x, y);
    context.fillStyle = "#fff";
    context.fillText(index + 1, x, y);
  }
  context.restore();
}

/** Draw a ring around a point that a reader marked. */
export function drawMark(context, [x, y], sharpness) {
  context.beginPath();
  context.arc(x, y, RING * sharpness, 0, 2 * Math.PI);
  outline(context, sharpness);
}

/** Draw a cross at the point that the Enter key would mark. */
export function drawCross(context, [x, y], sharpness) {
  const arm = RING * sharpness;
  context.beginPath();
  context.moveTo(x - arm, y);
  context.lineTo(x + arm, y);
  context.moveTo(x, y - arm);
  context.lineTo(x, y + arm);
  outline(context, sharpness);
}

function outline(context, sharpness) {
  for (const [width, color] of [[5, "#0c0c0c"], [2.5, "#6cc4ff"]]) {
    context.lineWidth = width * sharpness;
    context.strokeStyle = color;
    context.stroke();
  }
}

function ink(context, sharpness) {
  context.lineJoin = "round";
  context.lineWidth = 2 * RIM * sharpness;
  context.strokeStyle = "#0c0c0c";
  context.stroke();
  context.fillStyle = "#fff";
  context.fill();
}
