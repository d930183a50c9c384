// The sizes on offer. Pure.

const SHAPES = [
  { name: 'Square', ratio: 1 },
  { name: 'Landscape', ratio: 3 / 2 },
  { name: 'Wide', ratio: 16 / 9 },
  { name: 'Portrait', ratio: 2 / 3 },
  { name: 'Tall', ratio: 9 / 16 },
];

/** Each shape as large as the model's own square, within the limits: { name, width, height } in pixels. */
export function presets({ side_default_px: side, side_step_px: step }) {
  return SHAPES.map(({ name, ratio }) => {
    const down = (length) => Math.max(step, Math.floor(length / step) * step);
    // The longer side first, the other from what it leaves: both fit, and little is given away.
    const long = down(side * Math.sqrt(Math.max(ratio, 1 / ratio)));
    const short = down((side * side) / long);
    return ratio < 1 ? { name, width: short, height: long } : { name, width: long, height: short };
  });
}

/** Why a size will not do, in words; empty when it will. */
export function wrongSize(width, height, { side_step_px: step, side_max_px: most, max_pixels: pixels }) {
  for (const length of [width, height]) {
    if (!Number.isInteger(length) || length % step || length < step || length > most) {
      return `Width and height must be multiples of ${step} from ${step} to ${most}.`;
    }
  }
  if (width * height > pixels) {
    const fits = Math.floor(pixels / width / step) * step;
    return fits < step
      ? `That is too wide: at most ${pixels} pixels are served.`
      : `That is too many pixels; with a width of ${width} the height can be ${fits} at most.`;
  }
  return '';
}
