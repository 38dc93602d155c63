// What Voltflow's node sets need in Node-RED's editor: `register` makes a type of a node's declaration, `extend` adds the
// fields that are ours to a genuine type. `spec` is what edge/editor/forms.py describes.
const Voltflow = (function () {
  "use strict";

  const VARIABLE = /^\$\{[^}]+\}$/; // `${NAME}` as a whole: the gateway puts its environment's value there
  const INTEGER = /^[+-]?\d+$/;
  const MODES = { mustache: "handlebars", html: "html", json: "json", jsonata: "jsonata", python: "python" };

  const isConfig = (spec) => spec.category === "config";
  const prefixOf = (spec) => (isConfig(spec) ? "#node-config-input-" : "#node-input-");
  const isBlank = (value) => value === "" || value === undefined || value === null;

  // -- what is allowed -----------------------------------------------------------------------------------------------

  // Node-RED's convention: true, or a text that says what is wrong; without `opt` only false.
  const wrong = (text, opt) => (opt ? text : false);

  function checkNumber(field) {
    return function (value, opt) {
      if (isBlank(value)) return field.required ? wrong(`${field.name}: a number is needed`, opt) : true;
      if (VARIABLE.test(value)) return true;
      const number = Number(value);
      if (Number.isNaN(number)) return wrong(`${field.name}: ${value} is no number`, opt);
      if (field.integer && !INTEGER.test(String(value).trim())) {
        return wrong(`${field.name}: ${value} is no whole number`, opt);
      }
      if ((field.low !== undefined && number < field.low) || (field.high !== undefined && number > field.high)) {
        return wrong(`${field.name}: ${value} is out of range, allowed is ${field.range}`, opt);
      }
      return true;
    };
  }

  function checkText(field) {
    return (value, opt) => (isBlank(value) ? wrong(`${field.name} is needed`, opt) : true);
  }

  function checkReference(field) {
    return function (value, opt) {
      if (isBlank(value) || value === "_ADD_") return field.required ? wrong(`${field.name} is needed`, opt) : true;
      return RED.nodes.node(value) ? true : wrong(`${field.name}: there is no such node`, opt);
    };
  }

  function checkTyped(field, spec) {
    if (field.kind === "property") {
      return RED.validators.typedInput({ type: field.types[0], allowBlank: !field.required, allowUndefined: true });
    }
    const genuine = RED.validators.typedInput({
      typeField: field.typeProperty,
      isConfig: isConfig(spec),
      allowBlank: true,
      allowUndefined: true,
    });
    return function (value, opt) {
      return genuine.call(this, value, opt);
    };
  }

  // -- defaults ------------------------------------------------------------------------------------------------------

  function defaultOf(field, spec) {
    const entry = { value: field.default === undefined ? null : field.default, label: field.name };
    if (field.required) entry.required = true;
    if (field.kind === "number") entry.validate = checkNumber(field);
    else if (field.kind === "typed" || field.kind === "property") entry.validate = checkTyped(field, spec);
    else if (field.kind === "reference") {
      entry.type = field.reference;
      entry.required = Boolean(field.required);
      entry.validate = checkReference(field);
    } else if (field.required && field.kind !== "json") entry.validate = checkText(field);
    return entry;
  }

  function defaultsOf(spec, fields) {
    const defaults = {};
    for (const field of fields) if (field.kind !== "secret") defaults[field.name] = defaultOf(field, spec);
    return defaults;
  }

  function credentialsOf(fields) {
    const credentials = {};
    for (const field of fields) if (field.kind === "secret") credentials[field.name] = { type: field.credential };
    return credentials;
  }

  // -- the dialog ----------------------------------------------------------------------------------------------------

  // A property that the flow does not have: the dialog shows what holds then, and saves that.
  function fill(node, field, input) {
    if (node[field.name] === undefined && !isBlank(field.default)) input.val(String(field.default));
  }

  const open = new Map(); // by node: the text editors of its dialog, by field

  function editorsOf(node) {
    if (!open.has(node.id)) open.set(node.id, new Map());
    return open.get(node.id);
  }

  // By kind of field, what is to be done when a dialog opens, beyond what the editor fills in by itself.
  const PREPARE = {
    typed(node, field, input, prefix) {
      fill(node, field, input);
      const typeInput = $(prefix + field.typeProperty);
      if (isBlank(node[field.typeProperty])) typeInput.val(field.typeDefault);
      input.typedInput({ default: field.typeDefault, types: field.types, typeField: typeInput });
      input.typedInput("width", "60%");
    },
    property(node, field, input) {
      fill(node, field, input);
      input.typedInput({ default: field.types[0], types: field.types });
      input.typedInput("width", "60%");
    },
    json(node, field, input, prefix) {
      const shown = $(`${prefix}${field.name}-json`);
      const value = node[field.name] === undefined ? field.default : node[field.name];
      shown.val(JSON.stringify(value));
      shown.typedInput({ default: "json", types: ["json"] });
      shown.typedInput("width", "60%");
    },
    code(node, field, input, prefix) {
      fill(node, field, input);
      const id = `${prefix.slice(1)}${field.name}-editor`;
      editorsOf(node).set(field.name, RED.editor.createEditor({
        id,
        mode: `ace/mode/${MODES[field.language] || "text"}`,
        value: input.val(),
      }));
    },
    choice(node, field, input) {
      if (isBlank(node[field.name])) input.val(String(field.default));
    },
    text: fill,
    number: fill,
    bool(node, field, input) {
      if (node[field.name] === undefined) input.prop("checked", Boolean(field.default));
    },
  };

  function prepare(node, fields, prefix) {
    for (const field of fields) {
      const make = PREPARE[field.kind];
      if (make) make(node, field, $(prefix + field.name), prefix);
    }
    for (const field of fields) if (field.shownIf) showWith(field, prefix);
  }

  // A field is there while another one has a value with which it is of use.
  function showWith(field, prefix) {
    const other = $(prefix + field.shownIf.name);
    const row = other.closest("form").find(".voltflow-row").filter((_, element) => element.dataset.field === field.name);
    const show = () => row.toggle(field.shownIf.values.map(String).includes(other.val()));
    other.on("change", show);
    show();
  }

  function save(node, fields, prefix) {
    for (const field of fields) {
      if (field.kind === "code") $(prefix + field.name).val(editorsOf(node).get(field.name).getValue());
      if (field.kind === "json") node[field.name] = parsed($(`${prefix}${field.name}-json`).val(), field.default);
    }
    close(node);
  }

  function close(node) {
    for (const editor of editorsOf(node).values()) editor.destroy();
    open.delete(node.id);
  }

  function parsed(text, otherwise) {
    if (text === "") return otherwise === undefined ? null : otherwise;
    try {
      return JSON.parse(text);
    } catch (error) {
      return text; // the check before a deploy names it
    }
  }

  // The three functions that a dialog calls, each after the genuine one where there is one.
  function dialog(spec, fields, genuine) {
    const prefix = prefixOf(spec);
    const after = (name, mine) =>
      function (...args) {
        const answer = genuine[name] ? genuine[name].apply(this, args) : undefined;
        mine(this, fields, prefix);
        return answer;
      };
    return {
      oneditprepare: after("oneditprepare", prepare),
      oneditsave: after("oneditsave", save),
      oneditcancel: after("oneditcancel", close),
      oneditdelete: after("oneditdelete", close),
    };
  }

  // -- for the node sets ---------------------------------------------------------------------------------------------

  // A type of ours, with everything that its declaration says.
  function register(spec) {
    const definition = {
      category: spec.category,
      color: spec.color,
      icon: spec.icon,
      inputs: spec.inputs,
      outputs: spec.outputs,
      align: spec.align,
      paletteLabel: spec.label,
      defaults: { name: { value: "" }, ...defaultsOf(spec, spec.fields) },
      credentials: credentialsOf(spec.fields),
      label() {
        return this.name || spec.label;
      },
      labelStyle() {
        return this.name ? "node_label_italic" : "";
      },
      ...dialog(spec, spec.fields, {}),
    };
    RED.nodes.registerType(spec.type, definition);
  }

  // A genuine type: what it has stays as it is, and what its editor would drop is added.
  function extend(spec) {
    const definition = RED.nodes.getType(spec.type);
    if (!definition) return;
    const theirs = { ...definition.defaults, ...definition.credentials };
    const fields = spec.fields.filter((field) => !(field.name in theirs));
    explain(spec);
    relax(definition, spec);
    if (fields.length === 0) return;
    const added = defaultsOf(spec, fields);
    for (const entry of Object.values(added)) {
      if (entry.type) entry._type = { types: [entry.type], array: false };
    }
    definition.defaults = { ...definition.defaults, ...added };
    definition.credentials = { ...definition.credentials, ...credentialsOf(fields) };
    Object.assign(definition, dialog(spec, fields, { ...definition }));
    addRows(spec, fields);
  }

  // What may be left empty here, because there is a default, is no error either where the genuine form takes it for one.
  function relax(definition, spec) {
    for (const field of spec.fields) {
      const theirs = definition.defaults[field.name];
      const mayBeEmpty = field.kind === "number" || (field.kind === "text" && field.default === "");
      if (!theirs || field.required || !mayBeEmpty) continue;
      const genuine = theirs.validate;
      const relaxed = { ...theirs, required: false };
      if (genuine) {
        relaxed.validate = function (value, opt) {
          return isBlank(value) ? true : genuine.call(this, value, opt);
        };
      }
      definition.defaults = { ...definition.defaults, [field.name]: relaxed };
    }
  }

  function addRows(spec, fields) {
    const template = byName("template", spec.type);
    const rows = fields.map((field) => spec.rows[field.name]).join("");
    template.text(`${template.text()}<details class="voltflow-more"><summary>Voltflow</summary>${rows}</details>`);
  }

  function explain(spec) {
    const help = byName("help", spec.type);
    if (help.length > 0) help.text(`${help.text()}<h3>In Voltflow</h3>${spec.help}`);
  }

  function byName(kind, type) {
    return $("script").filter((_, element) => element.getAttribute(`data-${kind}-name`) === type);
  }

  // Types of a genuine set that this gateway does not run: they are not offered.
  function hide(types) {
    for (const type of types) {
      const definition = RED.nodes.getType(type);
      if (definition && definition.category !== "config") RED.palette.remove(type);
    }
  }

  // A type that is not run here: it is drawn, shows what it has, and keeps all of it.
  function keep(spec) {
    const defaults = {};
    for (const [name, value] of Object.entries(spec.properties)) defaults[name] = { value };
    RED.nodes.registerType(spec.type, {
      category: "deprecated", // which the palette leaves out
      color: "#dddddd",
      icon: spec.icon,
      inputs: 1,
      outputs: spec.outputs,
      defaults,
      label() {
        return this.name || this.command || spec.type;
      },
      labelStyle() {
        return this.name ? "node_label_italic" : "";
      },
      oneditprepare() {
        for (const name of spec.shown) {
          const text = this[name] === undefined ? "" : String(this[name]);
          $(`#voltflow-kept-${name}`).val(text).attr("rows", Math.min(Math.max(text.split("\n").length, 1), 20))
            .closest(".form-row").toggle(text !== "");
        }
      },
    });
    const definition = RED.nodes.getType(spec.type);
    definition.set = { ...definition.set, enabled: false }; // so that the search for a node to add leaves it out too
  }

  // -- notices -------------------------------------------------------------------------------------------------------

  // What is wrong with a deploy takes longer to read than a notice stands: it stays until it is closed, or the next deploy.
  function keepDeployErrors() {
    const notify = RED.notify;
    let standing = null;

    function close() {
      if (standing) standing.close();
      standing = null;
    }

    RED.notify = function (text, type, ...rest) {
      const begins = RED._("deploy.deployFailed", { message: "" });
      if (type !== "error" || typeof text !== "string" || !text.startsWith(begins)) return notify(text, type, ...rest);
      close();
      standing = notify(text, { type, fixed: true, buttons: [{ text: RED._("common.label.close"), click: close }] });
      return standing;
    };
    RED.events.on("deploy", close);
  }

  keepDeployErrors();

  return { register, extend, hide, keep };
})();
