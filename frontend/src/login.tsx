// Where other machines can reach the server, it wants to see its token once.

import { useState } from "preact/hooks";
import { ask } from "./server";

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
        <p>This coordinator lets in who has its token.</p>
        <label for="token">Token</label>
        <input id="token" name="token" type="password" autoComplete="off" autoFocus />
        <button class="button strong">Log in</button>
        <p class="bad" role="alert">{told}</p>
        <p class="quiet">It is in <code>~/.config/dora/.dora-token</code> of the user who started dora.</p>
      </form>
    </main>
  );
}

export function logIn(token: string): Promise<void> {
  return ask("POST", "/login", { token });
}
