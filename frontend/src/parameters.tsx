// The parameters of a node: read, change, add, delete.

import { useEffect, useState } from "preact/hooks";
import { useFeed } from "./hooks";
import { asText } from "./model";
import type { Past } from "./past";
import { request } from "./server";

export function ParameterList(props: { uuid: string; node: string; operator: string }) {
  const { uuid, node } = props;
  const [values, setValues] = useState<Record<string, unknown> | null>(null);
  const [told, setTold] = useState("");
  const [key, setKey] = useState("");

  const load = () =>
    request<{ values: Record<string, unknown> }>(uuid, { type: "get-parameters", node }).then(
      ({ values }) => setValues(values),
      (error: Error) => setTold(error.message),
    );
  useEffect(() => {
    setValues(null);
    setTold("");
    void load();
    const timer = setInterval(load, 3000); // another client may change them
    return () => clearInterval(timer);
  }, [uuid, node]);

  const change = async (body: { type: string; key: string; value?: unknown }, done: string) => {
    try {
      const { was_running } = await request<{ was_running: boolean }>(uuid, { ...body, node });
      setTold(was_running ? done : `${done}; the node gets it when it starts`);
    } catch (error) {
      setTold((error as Error).message);
    }
    await load();
  };
  const set = (name: string, text: string) =>
    change({ type: "set-parameter", key: name, value: meant(text) }, `${name} is set`);
  const remove = (name: string) => change({ type: "delete-parameter", key: name }, `${name} is deleted`);

  return (
    <section class="parameters" aria-label="Parameters">
      <h3>Parameters</h3>
      {props.operator !== props.node && <p class="quiet">All operators of {props.node} share them.</p>}
      {values !== null && Object.keys(values).length === 0 && <p class="quiet">This node has none.</p>}
      {Object.entries(values ?? {}).map(([name, value]) => (
        <Parameter key={name} name={name} value={value} onSet={set} onRemove={remove} />
      ))}
      <form
        class="parameter"
        onSubmit={(event) => {
          event.preventDefault();
          const field = event.currentTarget.elements.namedItem("new value") as HTMLInputElement;
          if (key) void set(key, field.value).then(() => setKey(""));
          field.value = "";
        }}
      >
        <input aria-label="New parameter" placeholder="new" value={key} onInput={(event) => setKey(event.currentTarget.value)} />
        <input aria-label="Its value" name="new value" placeholder="value" />
        <button class="button" disabled={!key}>Add</button>
      </form>
      <p class="quiet" role="status">{told}</p>
    </section>
  );
}

/** The parameters that a node had at the moment that is shown. */
export function PastParameters({ past, node }: { past: Past; node: string }) {
  useFeed(past, "state");
  const [values, setValues] = useState<Record<string, unknown> | null>(null);
  const [told, setTold] = useState("");
  useEffect(() => {
    let wanted = true;
    const show = (found: Record<string, unknown> | null, trouble: string) => {
      if (!wanted) return;
      setValues(found);
      setTold(trouble);
    };
    past.parameters(node).then(
      (found) => show(found, ""),
      (error: Error) => show(null, error.message), // parameters of another moment would be wrong
    );
    return () => {
      wanted = false;
    };
  }, [past, node, past.at]);
  return (
    <section class="parameters" aria-label="Parameters">
      <h3>Parameters</h3>
      {values !== null && Object.keys(values).length === 0 && <p class="quiet">This node had none.</p>}
      <dl class="past">
        {Object.entries(values ?? {}).map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{asText(value)}</dd>
          </div>
        ))}
      </dl>
      <p class="quiet" role="status">{told}</p>
    </section>
  );
}

function Parameter(props: {
  name: string;
  value: unknown;
  onSet: (name: string, text: string) => void;
  onRemove: (name: string) => void;
}) {
  const present = typeof props.value === "string" ? quoted(props.value) : JSON.stringify(props.value);
  const [text, setText] = useState<string | null>(null);
  const submit = (event: Event) => {
    event.preventDefault();
    if (text !== null) props.onSet(props.name, text);
    setText(null);
  };
  return (
    <form class="parameter" onSubmit={submit}>
      <label for={`parameter ${props.name}`}>{props.name}</label>
      <input
        id={`parameter ${props.name}`}
        value={text ?? present}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => event.key === "Escape" && setText(null)}
      />
      {text === null ? (
        <button type="button" class="button" aria-label={`Delete ${props.name}`} onClick={() => props.onRemove(props.name)}>×</button>
      ) : (
        <button class="button strong">Set</button>
      )}
    </form>
  );
}

/** Return what a text means, as `dora param set` understands it: JSON, or else the text itself. */
function meant(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Return a text as it has to be typed: in quotes if it would be something else without. */
function quoted(text: string): string {
  return meant(text) === text ? text : JSON.stringify(text);
}
