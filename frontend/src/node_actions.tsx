// What can be done with a node that runs.

import { useState } from "preact/hooks";
import { ConfirmButton } from "./hooks";
import type { NodeState } from "./model";
import { request } from "./server";

export function NodeActions({ uuid, node }: { uuid: string; node: NodeState }) {
  const [told, setTold] = useState("");
  const act = (action: "restart" | "stop") => () => {
    setTold("");
    request(uuid, { type: action, node: node.id }).catch((error: Error) => setTold(error.message));
  };
  return (
    <>
      <ConfirmButton label="Restart" sure="Really restart?" onConfirm={act("restart")} />
      <ConfirmButton label="Stop" sure="Really stop?" onConfirm={act("stop")} disabled={node.pid === null} />
      {told && <p class="bad" role="alert">{told}</p>}
    </>
  );
}
