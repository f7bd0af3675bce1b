"use strict";
// A button on every block of code that copies what one would type: no output, no prompts.
document.addEventListener("DOMContentLoaded", () => {
  for (const block of document.querySelectorAll("div.highlight > pre")) {
    if (block.closest(".cell_output")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy this code");
    button.addEventListener("click", async () => {
      const lines = block.innerText.split("\n");
      const typed = lines.filter((line) => /^(>>>|\.\.\.|\$) ?/.test(line));
      const text = (typed.length ? typed.map((line) => line.replace(/^(>>>|\.\.\.|\$) ?/, "")) : lines).join("\n");
      try {
        await navigator.clipboard.writeText(text.trimEnd() + "\n");
        button.textContent = "Copied";
      } catch {
        button.textContent = "Press Ctrl+C";
        getSelection().selectAllChildren(block);
      }
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
    block.parentElement.append(button);
  }
});
