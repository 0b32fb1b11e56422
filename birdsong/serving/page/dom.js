// Elements and words. What comes from files and answers enters the page as text, never as markup.

export const $ = (id) => document.getElementById(id);

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function show(...ids) { for (const id of ids) $(id).hidden = false; }
export function hide(...ids) { for (const id of ids) $(id).hidden = true; }

// Only what changed is written, so that a screen reader does not hear the same again.
export function write(id, text) { if ($(id).textContent !== text) $(id).textContent = text; }

export function clock(seconds, digits = 0) {
  const scale = 10 ** digits, whole = Math.floor(Math.max(0, seconds) * scale + 1e-5) / scale;
  const hours = Math.floor(whole / 3600), minutes = Math.floor((whole % 3600) / 60);
  const rest = (whole % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export function spoken(seconds) {
  const tenths = Math.floor(10 * seconds + 1e-5), minutes = Math.floor(tenths / 600), rest = (tenths % 600) / 10;
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return minutes ? `${minutes} min ${Math.floor(rest)} s` : `${rest} s`;
}

export function bytes(count) {
  for (const unit of ["bytes", "KiB", "MiB", "GiB"]) {
    if (count < 1024 || unit === "GiB") return unit === "bytes" ? `${count} ${unit}` : `${Number(count.toFixed(1))} ${unit}`;
    count /= 1024;
  }
}

export const percent = (share) => `${share > 0.995 ? ">99" : share < 0.01 ? "<1" : Math.round(100 * share)} %`;

// The species as people read it: common name, scientific name in italics, eBird code.
export function named(species) {
  const { code, common_name: common, scientific_name: scientific } = species;
  return [h("strong", {}, common || scientific || code), " ", h("span", { class: "soft" }, common && scientific ? [h("i", {}, scientific), " "] : null, h("code", {}, code))];
}

export const nameOf = (species) => species.common_name || species.scientific_name || species.code;
