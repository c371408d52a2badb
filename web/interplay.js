// Shows the text that Interplay's nodes report (hypergraph, token table, overlaps) in a read-only field on the node.
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const FIELD = "interplay_report";

function reportField(node) {
  const found = node.widgets?.find((widget) => widget.name === FIELD);
  if (found) return found;
  const { widget } = ComfyWidgets.STRING(node, FIELD, ["STRING", { multiline: true }], app);
  widget.serialize = false;
  widget.options = { ...widget.options, serialize: false, read_only: true };
  if (widget.inputEl) {
    widget.inputEl.readOnly = true;
    widget.inputEl.style.opacity = "0.75";
  }
  return widget;
}

app.registerExtension({
  name: "Interplay.Report",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("Interplay_")) return;
    const onExecuted = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (message) {
      onExecuted?.apply(this, arguments);
      if (!message?.text) return;
      reportField(this).value = [message.text].flat().join("\n");
      this.setDirtyCanvas?.(true, true);
    };
  },
});
