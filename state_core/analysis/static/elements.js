// What the scripts of a page share. Text reaches the page through textContent and fillText only.
"use strict";

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "style") node.style.cssText = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

const shown = (text) => text.replace(/\n/g, "↵").replace(/\t/g, "⇥");
const word = (text) => shown(text).trim() || "␣";
const number = (x) => x.toLocaleString("en");
const percent = (x) => {
  const size = Math.abs(100 * x), sign = x < 0 ? "−" : "";
  return size >= 99.5 && size < 100.5 ? `${sign}100 %` : size >= 9.95 ? `${sign}${Math.round(size)} %` : `${sign}${size.toFixed(1)} %`;
};
const signed = (x, plus = "+") => (x < 0 ? "−" : plus) + Math.abs(x).toFixed(3);
