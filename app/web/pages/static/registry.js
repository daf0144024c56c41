// Conveniences only: every page does its work without this file.

const UNITS = [
  ["minute", 60],
  ["hour", 60 * 60],
  ["day", 24 * 60 * 60],
];
const MONTH = 30 * 24 * 60 * 60;
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

function age(moment) {
  const seconds = (moment.getTime() - Date.now()) / 1000;
  const size = Math.abs(seconds);
  if (size < 60) return "just now";
  if (size >= MONTH) return null;
  const [unit, length] = UNITS.findLast(([, length]) => size >= length);
  return relative.format(Math.trunc(seconds / length), unit);
}

// Times in the time zone of the reader; what the page says, UTC, is there on hover.
function showLocalTimes() {
  const shown = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });
  if (shown.resolvedOptions().timeZone === "UTC") return;
  for (const time of document.querySelectorAll("time:not([data-relative])")) {
    time.title = time.textContent;
    time.textContent = shown.format(new Date(time.dateTime));
  }
}

function showAges() {
  for (const time of document.querySelectorAll("time[data-relative]")) {
    time.title ||= time.textContent;
    time.textContent = age(new Date(time.dateTime)) ?? time.title;
  }
}

function addCopyButton(block) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not copied";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  block.append(button);
}

showLocalTimes();
showAges();
setInterval(showAges, 30_000);

// Browsers give the clipboard to https and localhost only.
if (navigator.clipboard) document.querySelectorAll("[data-copy]").forEach(addCopyButton);

// An alert that is there from the start is not announced unless it has the focus.
document.querySelector("[data-focus]")?.focus();

function isTyping(element) {
  return element.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(element.tagName);
}

document.addEventListener("keydown", (event) => {
  const modified = event.ctrlKey || event.metaKey || event.altKey;
  const search = document.querySelector("[role=search] input");
  if (event.key !== "/" || modified || search === null || isTyping(event.target)) return;
  event.preventDefault();
  search.focus();
  search.select();
});
