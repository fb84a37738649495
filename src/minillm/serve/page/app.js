/** The page: which tab and conversation is shown, which models there are, the key. */

import * as api from "./api.js";
import { Chat } from "./chat.js";
import { Completion } from "./completion.js";
import { byId, el } from "./dom.js";
import { closeDrawer, startPanels } from "./panels.js";
import { growFields, showModels, showSettings } from "./settings.js";
import * as store from "./store.js";
import { keep, newTalk, showTalks } from "./talks.js";

const TABS = ["chat", "completion"];
let tab = "chat";
let models = [];
let loading; // settles once `models` are known, or cannot be
let asked = 0; // times that the server was asked for them

const known = (name) => async () => (await loading, firstModel(name)?.id ?? null);
const chat = new Chat({
  changed,
  failed,
  greeting,
  firstModel: known("chat"),
  room: (id) => modelOf(id)?.context,
});
const completion = new Completion({ failed, firstModel: known("completion") });

const modelOf = (id) => models.find((model) => model.id === id);
const choice = () => (tab === "chat" ? chat.talk.choice : completion.choice);

// Where we are stands in the address, so that reload, back and forward do what they say.

function go(hash) {
  if (location.hash === hash) follow();
  else location.hash = hash;
}

function follow() {
  const [, name, id] = location.hash.split("/");
  tab = TABS.includes(name) ? name : tab;
  if (tab === "chat" && (!chat.talk || id !== chat.talk.id)) {
    const talk = chat.runs.get(id)?.talk ?? (id ? store.talk(id) : null);
    chat.show(talk ?? newTalk(startingChoice()));
  }
  draw();
}

function startingChoice() {
  const last = chat.talk?.choice ?? store.talks()[0]?.choice;
  const model = modelOf(last?.model) ? last.model : (firstModel()?.id ?? null);
  return { ...last, model };
}

const firstModel = (name) => models.find((model) => fits(model, name)) ?? models[0];

/** Whether a model can do what a tab is for. */
const fits = (model, name = tab) => (name === "chat" ? model.chat : model.kind !== "encoder");

/** What stands where nothing is said yet. */
function greeting(id) {
  const model = modelOf(id);
  const quiet = (text) => el("p", { className: "quiet" }, text);
  if (!model || fits(model, "chat"))
    return [quiet("Nothing is said yet. Conversations stay in this browser.")];
  if (!fits(model, "completion")) return [quiet("This model is an encoder: it writes no text.")];
  const open = el("button", { type: "button", className: "plain", onclick: () => go("#/completion") });
  open.append("Open the completion tab");
  return [
    quiet("This model has no chat template: it continues texts, but does not converse."),
    el("p", {}, open),
  ];
}

function draw() {
  document.body.dataset.tab = tab;
  for (const name of TABS) {
    const button = byId(`tab-${name}`);
    button.setAttribute("aria-selected", name === tab);
    button.tabIndex = name === tab ? 0 : -1;
    byId(name).hidden = name !== tab;
  }
  if (tab === "completion") completion.show();
  choice().model ??= firstModel()?.id ?? null;
  showModels(models, choice().model);
  drawSettings();
  drawTalks();
}

function drawSettings() {
  const forget =
    api.hasKey() &&
    el("button", { type: "button", className: "plain", onclick: forgetKey }, "Forget the API key");
  showSettings(choice(), { system: tab === "chat", forget: forget || null }, keepChoice);
}

function keepChoice() {
  if (tab === "completion") completion.keep();
  else if (chat.talk.messages.length) keep(chat.talk);
}

/** Something was said, or an answer has ended. */
function changed() {
  if (tab === "chat" && chat.talk.messages.length)
    history.replaceState(null, "", `#/chat/${chat.talk.id}`);
  drawTalks();
}

function drawTalks() {
  showTalks({
    opened: chat.talk?.id,
    running: (id) => chat.runs.has(id),
    open: (id) => {
      closeDrawer();
      go(`#/chat/${id}`);
    },
    removed: (id) => {
      chat.discard(id);
      if (id === chat.talk.id) startTalk();
      else drawTalks();
    },
  });
}

function startTalk() {
  const talk = newTalk(startingChoice());
  chat.show(talk);
  history.pushState(null, "", `#/chat/${talk.id}`);
  draw();
}

// The server: its models, the key it may want, its refusals.

function loadModels() {
  loading = askForModels();
}

async function askForModels() {
  const turn = ++asked;
  const [found, error] = await api.models().then(
    (all) => [all, null],
    (error) => [null, error],
  );
  if (turn !== asked) return loading; // asked again since, perhaps with another key
  if (error) return failed(error, "Try again", loadModels);
  models = found;
  byId("key-form").hidden = true;
  byId("notice").hidden = true;
  const first = !location.hash && !store.talks().length;
  if (first && models.length && models.every((model) => !fits(model, "chat"))) tab = "completion";
  for (const own of [chat.talk?.choice, completion.choice]) if (own) own.model ??= firstModel()?.id;
  if (chat.talk && !chat.running) chat.draw();
  draw();
}

function failed(error, label, act) {
  if (error.status === 401) {
    byId("key-why").textContent = error.message;
    byId("key-form").hidden = false;
    byId("key").focus();
  } else if (label) {
    const [sentence, button] = byId("notice").children;
    sentence.textContent = error.message;
    button.textContent = label;
    button.onclick = act;
    byId("notice").hidden = false;
  }
}

function forgetKey() {
  api.useKey("", false);
  drawSettings();
  loadModels();
}

function start() {
  startPanels(growFields);
  byId("new").addEventListener("click", () => {
    closeDrawer();
    startTalk();
    byId("message").focus();
  });
  for (const name of TABS) {
    const open = () => go(name === "chat" && chat.talk ? `#/chat/${chat.talk.id}` : `#/${name}`);
    byId(`tab-${name}`).addEventListener("click", open);
    byId(`tab-${name}`).addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = byId(`tab-${TABS.find((each) => each !== name)}`);
      other.click();
      other.focus();
    });
  }
  byId("model").addEventListener("change", (event) => {
    choice().model = event.target.value;
    if (tab === "chat" && !chat.running) chat.draw();
    keepChoice();
  });
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    api.useKey(byId("key").value.trim(), byId("key-keep").checked);
    byId("key").value = "";
    loadModels();
  });
  byId("skip").addEventListener("click", () => byId(tab === "chat" ? "message" : "prompt").focus());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || closeDrawer()) return;
    if (tab === "chat") chat.stop();
    else completion.stop();
  });
  addEventListener("hashchange", follow);
  addEventListener("storage", ({ key }) => store.isTalk(key) && drawTalks());
  store.tellTrouble((sentence) =>
    failed(new Error(sentence), "Close", () => (byId("notice").hidden = true)),
  );
  follow();
  loadModels();
}

start();
