// Without the address that dora has printed, the server wants to see its token once.

import { useState } from "preact/hooks";
import { ask, keep } from "./server";

export function LoginPane(props: { onDone: () => void; told: string }) {
  const [told, setTold] = useState(props.told);
  const submit = (event: Event) => {
    event.preventDefault();
    const field = (event.currentTarget as HTMLFormElement).elements.namedItem("token") as HTMLInputElement;
    logIn(field.value).then(props.onDone, (error: Error) => setTold(error.message));
  };
  return (
    <main class="login">
      <form class="card" onSubmit={submit}>
        <h1>dora</h1>
        <p>This page is for the user who started dora. Open the address that <code>dora status</code> or <code>dora run --ui</code> has printed, or enter the token.</p>
        <label for="token">Token</label>
        <input id="token" name="token" type="password" autoComplete="off" autoFocus />
        <button class="button strong">Log in</button>
        <p class="bad" role="alert">{told}</p>
        <p class="quiet">The token of a coordinator is in <code>~/.config/dora/.dora-token</code> of that user.</p>
      </form>
    </main>
  );
}

export async function logIn(token: string): Promise<void> {
  keep((await ask<{ page: string }>("POST", "/login", { token })).page);
}
