// The page of `sosm inspect --serve`: a text is sent to be read, and its graph is drawn.

async function ask(path, question) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(question) }).catch(() => {
    throw new Error("No answer. Is sosm inspect --serve still running?");
  });
  const said = await answer.json().catch(() => ({ error: `The server failed (${answer.status}); its terminal says why.` }));
  if (!answer.ok) throw new Error(said.error);
  return said;
}

class Live {
  constructor() {
    [this.form, this.text, this.button, this.status, this.problem, this.root] =
      ["ask", "text", "draw", "status", "problem", "explored"].map((id) => document.getElementById(id));
    this.drawn = "";
    this.explorer = this.root.explorer = new Explorer(this.root, (model, position) => ask("attribute", { text: this.drawn, model, position }));
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.draw(); });
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    if (this.text.value) this.draw();
  }

  async draw() {
    const began = performance.now(), text = this.text.value;
    this.button.disabled = true;
    this.problem.hidden = true;
    this.status.textContent = "reading …";
    try {
      const { readings, seconds } = await ask("read", { text });
      this.drawn = text;
      this.root.hidden = false;
      this.explorer.load(readings);
      this.said(readings, seconds, (performance.now() - began) / 1000);
    } catch (error) {
      this.problem.textContent = error.message;
      this.problem.hidden = false;
      this.status.textContent = "";
    } finally {
      this.button.disabled = false;
    }
  }

  said(readings, reading, all) {
    const edges = readings.map(({ rows }) => number(rows.reduce((sum, row) => sum + row.length, 0))).join(" and ");
    this.status.textContent = `${number(readings[0].tokens.length)} tokens, ${edges} edges, drawn in ${all.toFixed(2)} s (${reading.toFixed(2)} s to read)`;
    this.status.dataset.seconds = all;
  }
}

new Live();
