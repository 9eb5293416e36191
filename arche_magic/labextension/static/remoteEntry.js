/* Two things that a kernel cannot do: an item in JupyterLab's status bar that says what is left,
 * and Ctrl+Enter in the panel's prompt box.
 *
 * JupyterLab loads this file as it is. Other extensions are built into this form, a container of
 * webpack's module federation; this one is written by hand. At its end, `init` is given the modules
 * that the application shares, and `get` returns our plugins. What the item says comes from
 * `notebook/status_bar.py`.
 */
(() => {
  "use strict";

  // The name of the kernel's comm. Only a kernel with arche_magic has one.
  const TARGET = "arche_magic.status";
  // The signs of the table of `%llm_quota`. Shape and words tell them apart; colour only helps.
  const SIGNS = {
    open: ["●", "#2e9e5b"],
    waiting: ["◐", "#c98a1b"],
    closed: ["○", "#d0493b"],
    unknown: ["◌", "inherit"],
  };
  // In a narrower window a shorter text leaves room for the other items of the bar.
  const NARROW = "(max-width: 1000px)";
  // After these states a kernel has lost what it had loaded.
  const GONE = ["restarting", "autorestarting", "terminating", "dead"];

  let shared = {};

  /* A module of the application itself, which must not be loaded twice; null if it has none. */
  async function load(name) {
    const versions = Object.values(shared[name] ?? {});
    const chosen = versions.find((version) => version.loaded) ?? versions[0];
    return chosen ? (await chosen.get())() : null;
  }

  async function makePlugins() {
    const names = ["notebook", "statusbar", "apputils"].map((name) => `@jupyterlab/${name}`);
    const modules = await Promise.all([...names, "@lumino/widgets"].map(load));
    // Other applications may share fewer modules. There is nothing to extend in them.
    if (modules.includes(null)) return [];
    const [notebook, statusbar, apputils, widgets] = modules;
    // All services are optional: Notebook 7 has no status bar, and some of its pages no notebook.
    const item = {
      id: "arche-magic:status-bar",
      autoStart: true,
      optional: [notebook.INotebookTracker, statusbar.IStatusBar],
      activate: (_, tracker, bar) => {
        if (tracker && bar) addItem(tracker, bar, notebook, apputils, widgets);
      },
    };
    const sendKey = {
      id: "arche-magic:send-key",
      autoStart: true,
      optional: [notebook.INotebookTracker],
      activate: (_, tracker) => {
        if (tracker) sendWithKey(tracker);
      },
    };
    return [item, sendKey];
  }

  /* ----------------------------------------------------------------- the item in the status bar */

  function addItem(tracker, bar, { NotebookActions }, { Dialog, showDialog }, { Panel, Widget }) {
    const button = document.createElement("button");
    const [sign, words] = [document.createElement("span"), document.createElement("span")];
    button.append(sign, words);
    button.type = "button";
    button.style.cssText = "border: 0; background: none; font: inherit; cursor: pointer";
    button.style.lineHeight = "inherit";
    sign.style.marginRight = "4px";
    sign.ariaHidden = "true"; // the words say the same

    const item = new Widget({ node: button });
    item.addClass("jp-mod-highlighted");
    const narrow = matchMedia(NARROW);
    let status = null;
    bar.registerStatusItem("arche-magic:status-bar", {
      item,
      align: "left",
      rank: 90,
      isActive: () => status !== null,
    });
    item.hide();

    let asked = null; // the kernel that was asked whether it has arche_magic
    let comm = null; // if it has
    let dialogBody = null; // of the dialog that waits for the table

    const isConnected = () => comm !== null && !comm.isDisposed;
    const currentKernel = () => tracker.currentWidget?.sessionContext.session?.kernel ?? null;

    function show(next) {
      // The kernel's clock may differ from ours, so it says in how many seconds a route opens.
      status = next && { ...next, opensAt: Date.now() + 1000 * (next.opens_in ?? 0) };
      draw();
      item.setHidden(status === null);
    }

    function draw() {
      if (status === null) return;
      const [shape, color] = SIGNS[status.sign] ?? SIGNS.closed;
      const seconds = Math.max(0, Math.ceil((status.opensAt - Date.now()) / 1000));
      // Names of keys and models are text, never HTML.
      sign.textContent = shape;
      sign.style.color = color;
      const text = narrow.matches ? status.short : status.text;
      words.textContent = status.opens_in == null ? text : `${text} in ${seconds} s`;
      button.title = status.details.join("\n");
    }
    narrow.addEventListener("change", draw);
    setInterval(() => status?.opens_in != null && draw(), 1000);

    function forget() {
      asked = null;
      if (isConnected()) comm.dispose();
      comm = null;
      show(null);
    }

    /* Ask the current notebook's kernel for its comm. This runs no code in the kernel. */
    async function follow() {
      const kernel = currentKernel();
      if (kernel === asked && isConnected()) return;
      forget();
      if (!kernel) return;
      asked = kernel;
      try {
        const reply = await kernel.requestCommInfo({ target_name: TARGET });
        const [id] = Object.keys(reply.content.comms ?? {});
        // Meanwhile another notebook may have been chosen, or another answer may have come.
        if (id === undefined || asked !== kernel || comm) return;
        comm = kernel.createComm(TARGET, id);
        comm.onMsg = (message) => hear(message.content.data);
        comm.onClose = forget;
        want("status");
      } catch {
        // The kernel ended before it answered. The next one is asked again.
      }
    }

    /* Tell the kernel that somebody looks; after ten minutes without it sends nothing more. */
    function want(what) {
      if (isConnected()) comm.send({ wants: what });
    }

    function hear(data) {
      if (data.status) show(data.status);
      if (data.table && dialogBody) showTable(data.table);
    }

    function showTable(table) {
      const type = table["text/html"] ? "text/html" : "text/plain";
      const renderer = tracker.currentWidget.content.rendermime.createRenderer(type);
      // Not trusted, so JupyterLab removes scripts and the like.
      renderer.renderModel({ data: table, metadata: {}, trusted: false, setData() {} });
      dialogBody.widgets.forEach((old) => old.dispose());
      dialogBody.addWidget(renderer);
    }

    async function openTable() {
      const body = new Panel();
      const hint = new Widget();
      hint.node.textContent = "The table appears as soon as the kernel can answer.";
      body.addWidget(hint);
      dialogBody = body;
      want("table");
      const buttons = [Dialog.okButton({ label: "Close" })];
      await showDialog({ title: "What every route has left", body, buttons });
      dialogBody = null;
    }

    button.addEventListener("click", openTable);
    button.addEventListener("mouseenter", () => want("status"));
    document.addEventListener("visibilitychange", () => document.hidden || want("status"));
    tracker.currentChanged.connect(follow);
    tracker.widgetAdded.connect((_, panel) => {
      const isCurrent = () => panel === tracker.currentWidget;
      panel.sessionContext.kernelChanged.connect(() => isCurrent() && follow());
      panel.sessionContext.statusChanged.connect((_, state) => {
        if (!isCurrent()) return;
        if (GONE.includes(state)) forget();
        else if (state === "idle" && asked !== currentKernel()) follow();
      });
    });
    // A cell may have loaded the extension.
    NotebookActions.executed.connect((_, { notebook }) => {
      if (notebook !== tracker.currentWidget?.content) return;
      if (isConnected()) want("status");
      else follow();
    });
  }

  /* ------------------------------------------------------ Ctrl+Enter in the panel's prompt box */

  function sendWithKey(tracker) {
    // For each kernel, the ids of messages to widgets that it has not handled yet.
    const unhandled = new WeakMap();

    function noteSent(kernel, { msg, direction }) {
      if (direction !== "send" || msg.header.msg_type !== "comm_msg") return;
      if (!unhandled.has(kernel)) unhandled.set(kernel, new Set());
      unhandled.get(kernel).add(msg.header.msg_id);
    }

    /* Called after ipywidgets has seen the message, and has sent what waited for it. */
    function noteReceived(kernel, msg) {
      const state = msg.header.msg_type === "status" && msg.content.execution_state;
      if (state === "idle") unhandled.get(kernel)?.delete(msg.parent_header.msg_id);
      else if (state === "starting") unhandled.delete(kernel);
    }

    /* The prompt box for which a key or the focus is meant, or null. */
    function promptBox(event) {
      return event.target.matches?.(".arche-panel textarea") ? event.target : null;
    }

    function kernelOf(box) {
      const owner = tracker.find((panel) => panel.node.contains(box)) ?? tracker.currentWidget;
      return owner?.sessionContext.session?.kernel;
    }

    function onFocus(event) {
      const box = promptBox(event);
      const kernel = box && kernelOf(box);
      // Each connects once, however often the box is focused.
      kernel?.anyMessage.connect(noteSent);
      kernel?.iopubMessage.connect(noteReceived);
    }

    async function onKey(event) {
      const box = promptBox(event);
      if (!box || event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      // Nobody else may take the key: in a notebook it runs the cell.
      event.preventDefault();
      event.stopPropagation();
      // ipywidgets sends what is typed only once the kernel has handled what was typed before. A
      // click would overtake the last letters.
      do await new Promise((done) => setTimeout(done, 20));
      while (unhandled.get(kernelOf(box))?.size);
      box.closest(".arche-panel")?.querySelector(".arche-send")?.click();
    }

    // In the capture phase, because ipywidgets keeps the keys of its text boxes from bubbling.
    document.addEventListener("keydown", onKey, true);
    document.addEventListener("focusin", onFocus, true);
  }

  window._JUPYTERLAB ??= {};
  window._JUPYTERLAB["arche-magic"] = {
    init(scope) {
      shared = scope;
    },
    async get() {
      const plugins = await makePlugins();
      return () => ({ __esModule: true, default: plugins });
    },
  };
})();
