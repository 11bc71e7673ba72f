// Number formatting with about three significant digits, the precision of the measurements.

export function digits(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

export function milliseconds(value) {
  return `${digits(value)} ms`;
}

export function size(bytes) {
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.ceil(bytes / 1e3)} kB`;
}

export function imageFacts({ width, height, format, bytes }) {
  return `${width} × ${height} pixels, ${format.toUpperCase()}, ${size(bytes)}`;
}

export function millions(count) {
  return `${(count / 1e6).toFixed(0)} M`;
}

export function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}
