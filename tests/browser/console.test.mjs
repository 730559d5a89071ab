// The page of `projector dev`, driven by a real browser: what a person does, and what they see.
//
// Each test has a console and a browser page of its own. Nothing sleeps: Playwright waits for what is expected.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const { CHROMIUM, PROJECTOR, SCREENSHOTS } = process.env;
const WITHIN = 30_000;
let browser;

before(async () => {
  // The tests may run as root, in a container of their own.
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
});
after(() => browser.close());

/** Starts a console and opens its page. `use` gets the page, its address and the DynamoDB's; every script error fails the test. */
async function withConsole(use, options = {}) {
  const folder = mkdtempSync(join(tmpdir(), "console-"));
  const console_ = spawn(PROJECTOR, ["dev", "--port", "0", "--page-port", "0", "--fixtures", folder], { stdio: ["ignore", "pipe", "inherit"] });
  const urls = [];
  for await (const line of createInterface({ input: console_.stdout })) {
    urls.push(...(line.match(/http:\/\/[\d.]+:\d+/g) ?? []));
    if (new Set(urls).size === 2) break;
  }
  const [address, database] = [...new Set(urls)];
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  context.setDefaultTimeout(WITHIN);
  const page = await context.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("dialog", (dialog) => { errors.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
  try {
    await page.goto(address);
    await use(page, { address, database, folder });
    assert.deepEqual(errors, []);
  } finally {
    await context.close();
    console_.kill("SIGINT");
    await new Promise((ended) => console_.once("exit", ended));
    rmSync(folder, { recursive: true });
  }
}

function projector(...args) {
  const { status, stdout, stderr } = spawnSync(PROJECTOR, args, { encoding: "utf8" });
  return { status, output: stdout + stderr };
}

/** Gives a command by its form, and waits for the answer. */
async function command(page, kind, name, id, fields = {}) {
  await page.getByRole("link", { name: "Commands" }).click();
  await page.getByRole("navigation", { name: "Kinds of aggregates" }).getByRole("link", { name: kind, exact: true }).click();
  const form = page.locator("form.command").filter({ has: page.getByRole("group", { name, exact: true }) });
  await form.getByLabel(kind, { exact: true }).fill(id);
  for (const [field, value] of Object.entries(fields)) await form.getByLabel(field, { exact: true }).fill(value);
  await form.getByRole("button", { name, exact: true }).click();
  await page.locator("#said").filter({ hasText: /./ }).waitFor();
  return page.locator("#said").textContent();
}

const live = (page) => page.getByRole("link", { name: "Live" }).click();
const press = (page, name) => page.getByRole("button", { name, exact: true }).click();
const sees = (page, text) => page.getByText(text).first().waitFor();
const idle = (page) => page.waitForFunction(() => document.getElementById("standing").textContent.split("nothing waits").length === 3);

/** An account with a deposit, seen on the live page, delivered to both handlers. */
async function withDeposit(page) {
  assert.match(await command(page, "account", "Open", "ann", { initialDeposit: "100" }), /ann is at version 1; 1 event: AccountOpened/);
  assert.match(await command(page, "account", "Deposit", "ann", { amount: "25.50" }), /version 2; 1 event: MoneyDeposited/);
  await live(page);
  await sees(page, "MoneyDeposited");
  await idle(page);
}

async function balance(page, expected) {
  await page.getByRole("link", { name: "Rows", exact: true }).click();
  await page.getByRole("link", { name: "account-summary" }).click();
  await page.getByRole("link", { name: "ann", exact: true }).click();
  await page.getByRole("row", { name: `balance ${expected}` }).waitFor();
}

test("open an account, deposit by form, and see the row", async () => {
  await withConsole(async (page) => {
    await withDeposit(page);
    const entry = page.locator("#lane > li").filter({ hasText: "MoneyDeposited" });
    await entry.getByText("✓ applied").first().waitFor();
    await entry.getByText(/balance\s+100\s+→\s+125.5/).first().waitFor();
    await balance(page, "125.5");
  });
});

test("a refused command says why, and one sent twice has one effect", async () => {
  await withConsole(async (page) => {
    await withDeposit(page);
    assert.match(await command(page, "account", "Withdraw", "ann", { amount: "1000" }), /refused: the funds are insufficient/);
    const form = page.locator("form.command").filter({ has: page.getByRole("group", { name: "Deposit", exact: true }) });
    const send = async () => {
      await form.getByLabel("account", { exact: true }).fill("ann");
      await form.getByLabel("amount", { exact: true }).fill("1");
      if (!(await form.locator("details").evaluate((details) => details.open))) await form.getByText("Command id").click();
      await form.getByLabel("Id", { exact: true }).fill("once");
      const answered = page.waitForResponse((response) => response.request().method() === "POST");
      await form.getByRole("button").click();
      return (await answered).text();
    };
    assert.match(await send(), /ann is at version 3; 1 event: MoneyDeposited$/);
    assert.match(await send(), /ann is at version 3; 1 event: MoneyDeposited, as answered before/);
    await balance(page, "126.5");
  });
});

test("deliver again: our row stays, the naive one is wrong before one's eyes", async () => {
  await withConsole(async (page) => {
    await withDeposit(page);
    await press(page, "Deliver again");
    await sees(page, "= duplicate");
    await sees(page, /rows? wrong/);
    const wrong = page.locator("#wrong tr").filter({ hasText: "account-summary" });
    await wrong.getByText("125.5").waitFor();
    await wrong.getByText("151").waitFor();
    await balance(page, "125.5");
  });
});

for (const [button, said] of [["Lose an answer", null], ["Kill in mid-batch", "† died"]]) {
  test(`${button}: ours counts once, the naive one twice`, async () => {
    await withConsole(async (page) => {
      await withDeposit(page);
      await press(page, button);
      await sees(page, "⚠");
      await command(page, "account", "Deposit", "ann", { amount: "10" });
      await live(page);
      if (said) await sees(page, said);
      await page.locator("#wrong tr").filter({ hasText: "135.5" }).getByText("145.5").first().waitFor();
      await balance(page, "135.5");
    });
  });
}

test("deliver out of order: what is missing is healed", async () => {
  await withConsole(async (page) => {
    await withDeposit(page);
    await press(page, "Deliver out of order");
    await sees(page, "two events of one aggregate are awaited");
    await command(page, "account", "Deposit", "ann", { amount: "1" });
    await command(page, "account", "Deposit", "ann", { amount: "2" });
    await live(page);
    await sees(page, "+ 1 healed");
    await balance(page, "128.5");
  });
});

test("throttle, and deploy a broken rule: records wait, nothing is parked", async () => {
  await withConsole(async (page) => {
    await withDeposit(page);
    await press(page, "Throttle for 10 s");
    await sees(page, "every request is throttled for another");
    await press(page, "Deploy a broken rule");
    await sees(page, "rules that refuse everything are deployed");
    await press(page, "Deploy the right rule");
    await page.getByText("rules that refuse everything are deployed").first().waitFor({ state: "detached" });
    await command(page, "account", "Deposit", "ann", { amount: "10" });
    await balance(page, "135.5");
    await page.getByRole("link", { name: "Parked" }).click();
    await sees(page, "Nothing is parked.");
  });
});

test("a poison event: parked, corrected, redriven; others go on", async () => {
  await withConsole(async (page, { database }) => {
    await withDeposit(page);
    await press(page, "Poison event");
    await sees(page, "‖ parked");
    await sees(page, /behind a batch that failed/);
    await command(page, "account", "Open", "ben", { initialDeposit: "7" });
    await live(page);
    await page.locator("#lane > li").filter({ hasText: "ben" }).getByText("✓ applied").first().waitFor();
    await page.getByRole("link", { name: "Parked" }).click();
    await page.getByRole("row", { name: /account-summary ann/ }).getByRole("link", { name: "payload" }).click();
    await sees(page, '"poison"');
    await page.getByRole("row", { name: /account-summary ann/ }).getByRole("button", { name: "Redrive" }).click();
    await sees(page, /still parked: ann/);
    const correct = spawnSync(PROJECTOR, ["--endpoint-url", database, "events", "correct", "ann", "3", "--with", "-", "--why", "test", "--yes"],
      { encoding: "utf8", input: JSON.stringify({ eventType: "MoneyDeposited", eventData: { amount: 5 } }) });
    assert.equal(correct.status, 0, correct.stdout + correct.stderr);
    const redrive = page.getByRole("button", { name: "Redrive all" });
    if (await redrive.isVisible()) await redrive.click();
    await sees(page, "Nothing is parked.");
    await balance(page, "130.5");
  });
});

test("step through a history with the slider, by keyboard", async () => {
  await withConsole(async (page) => {
    await withDeposit(page);
    await page.goto(new URL("/aggregate?id=ann&projection=account-summary", page.url()).href);
    const slider = page.getByRole("slider");
    await slider.focus();
    await page.keyboard.press("Home");
    await page.locator("#step").getByText("AccountOpened").first().waitFor();
    await page.locator("#step").getByRole("row", { name: /balance none 100/ }).waitFor();
    await page.keyboard.press("ArrowRight");
    await page.locator("#step").getByRole("row", { name: /balance 100 125.5/ }).waitFor();
    assert.match(page.url(), /at=2/);
  });
});

test("verify and rebuild show their progress and their result", async () => {
  await withConsole(async (page) => {
    await withDeposit(page);
    await page.getByRole("link", { name: "Checks" }).click();
    for (const [button, result] of [["Verify", /every row is right/], ["Rebuild", /0 rows written/], ["Repair", /every row is right/]]) {
      await page.getByRole("row", { name: /account-summary/ }).getByRole("button", { name: button }).click();
      await page.locator("section.check").filter({ hasText: `${button} account-summary` }).getByText(result).waitFor();
      await page.reload();
    }
  });
});

test("a saved fixture replays", async () => {
  await withConsole(async (page, { folder }) => {
    await withDeposit(page);
    await page.getByLabel("Name").fill("what-happened");
    await press(page, "Save");
    await sees(page, /records saved: projector replay/);
    const at = join(folder, "what-happened");
    const { status, output } = projector("replay", at, "--expect", join(at, "expected.json"));
    assert.equal(status, 0, output);
    await press(page, "Save");
    await sees(page, /exists: choose another name/);
  });
});

test("an order goes through its process", async () => {
  await withConsole(async (page) => {
    await command(page, "account", "Open", "ann", { initialDeposit: "100" });
    await command(page, "user", "Register", "u1", { name: "Ann", email: "ann@example.com" });
    await command(page, "stock", "Receive", "tea", { quantity: "5" });
    const items = JSON.stringify([{ productId: "tea", name: "tea", price: 10, quantity: 2 }]);
    const said = await command(page, "order", "Place", "o1", { userId: "u1", items, accountId: "ann" });
    assert.match(said, /o1 is at version/);
    await page.getByRole("link", { name: "Processes" }).click();
    await page.getByRole("link", { name: "order-fulfilment/o1" }).click();
    await page.locator(".timeline").getByText(/sent ship to shipment/).waitFor();
  });
});

test("an event's data with markup runs no script and shows as text", async () => {
  await withConsole(async (page) => {
    const hostile = `<img src=x onerror="alert(1)"><script>alert(2)</script>`;
    await command(page, "category", "Create", hostile, { name: hostile });
    await live(page);
    await page.locator("#lane").getByText(hostile).first().waitFor();
    await page.getByRole("link", { name: "Rows", exact: true }).click();
    await page.getByRole("link", { name: "forum-counters" }).click();
    await page.getByRole("link", { name: hostile }).click();
    await page.getByRole("heading", { name: hostile }).waitFor();
    assert.equal(await page.locator("main img").count(), 0);
  });
});

test("everything is reached by keyboard, and works without the script", async () => {
  await withConsole(async (page) => {
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
    const reached = new Set();
    for (let presses = 0; presses < 40; presses++) {
      await page.keyboard.press("Tab");
      reached.add(await page.evaluate(() => document.activeElement.textContent));
    }
    for (const name of ["Rows", "Checks", "Deliver again", "Poison event", "Deploy a broken rule", "Save"]) assert.ok(reached.has(name), name);
  });
  await withConsole(async (page) => {
    await page.getByRole("link", { name: "Commands" }).click();
    const form = page.locator("form.command").filter({ has: page.getByRole("group", { name: "Open", exact: true }) });
    await form.getByLabel("account", { exact: true }).fill("ann");
    await form.getByLabel("initialDeposit", { exact: true }).fill("100");
    await form.getByRole("button", { name: "Open" }).click();
    await sees(page, "ann is at version 1; 1 event: AccountOpened");
    await balance(page, "100");
  }, { javaScriptEnabled: false });
});

test("pages fit a phone, light and dark", { skip: !SCREENSHOTS && "pictures only: set SCREENSHOTS" }, async () => {
  mkdirSync(SCREENSHOTS, { recursive: true });
  await withConsole(async (page, { address }) => {
    await withDeposit(page);
    await press(page, "Deliver again");
    await sees(page, /rows wrong/);
    await press(page, "Poison event");
    await sees(page, "‖ parked");
    const paths = {
      live: "/", rows: "/rows?projection=account-summary", row: "/row?projection=account-summary&key=ann", commands: "/commands?kind=account",
      aggregate: "/aggregate?id=ann&projection=account-summary", processes: "/processes", parked: "/parked", checks: "/checks",
    };
    for (const colorScheme of ["light", "dark"]) {
      for (const [width, height] of [[1280, 800], [390, 844]]) {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize({ width, height });
        for (const [name, path] of Object.entries(paths)) {
          await page.goto(address + path);
          await page.locator("main h1").waitFor();
          await page.screenshot({ path: join(SCREENSHOTS, `${name}-${colorScheme}-${width}.png`), fullPage: true });
          const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
          assert.ok(overflow <= 0, `${name} is ${overflow} pixels wider than ${width}`);
        }
      }
    }
  });
});
