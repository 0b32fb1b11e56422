// Buttons that change something: each shows first what it will do.
import { post } from "./data.js";
import { h } from "./dom.js";

const TITLES = { from: (step) => `Rerun from ${step}`, only: (step) => `Rerun only ${step}`, resume: () => "Resume the run", cancel: () => "Cancel the run" };

export async function ask(run, action, step, started) {
  const dialog = document.getElementById("dialog");
  const text = h("pre", { tabindex: "0", role: "status" }, action === "cancel" ? `Run ${run.id} is asked to stop. Its running steps are ended; what is finished stays and can be resumed.` : "Asking what would run …");
  const go = h("button", { type: "button", class: "primary", disabled: action !== "cancel" }, action === "cancel" ? "Cancel the run" : "Start");
  const settings = h("input", { type: "text", placeholder: "epochs=5 learning_rate=0.001", "aria-label": "Changed parameters", spellcheck: "false",
    oninput: () => { go.disabled = true; }, onchange: () => show() });
  const changes = h("label", {}, h("span", { class: "soft" }, "Change parameters (NAME=VALUE, then Enter); what they touch runs too"), settings);
  const close = h("button", { type: "button", onclick: () => dialog.close() }, "Close");
  dialog.replaceChildren(h("h2", { id: "dialog-title" }, TITLES[action](step)), ["from", "only"].includes(action) ? changes : "", text, h("div", { class: "buttons" }, go, close));
  if (!dialog.open) dialog.showModal();
  close.focus();
  const body = () => ({ run: run.id, action, step: step || null, settings: settings.value.split(/\s+/).filter(Boolean) });
  const wrong = (error) => { text.textContent = error.message; text.classList.add("error"); };
  let asked = 0;
  const show = async () => {
    const mine = (asked += 1);
    go.disabled = true;
    text.classList.remove("error");
    text.textContent = "Asking what would run …";
    try {
      const plan = await post("/api/plan", body());
      if (mine !== asked) return;  // the parameters were changed meanwhile
      text.textContent = `${plan.text || "(The command said nothing.)"}\n\n$ ${plan.command}`;
      text.classList.toggle("error", plan.exit_code !== 0);
      go.disabled = plan.exit_code !== 0;
    } catch (error) { if (mine === asked) wrong(error); }
  };
  go.addEventListener("click", async () => {
    go.disabled = true;
    try {
      const answer = action === "cancel" ? await post("/api/cancel", { run: run.id }) : await post("/api/start", body());
      if (answer.exit_code) return wrong(new Error(answer.text || `It ended with ${answer.exit_code}.`));
      dialog.close();
      started(action);
    } catch (error) { wrong(error); }
  });
  if (action !== "cancel") await show();
}
