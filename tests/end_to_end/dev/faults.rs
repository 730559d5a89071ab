//! The buttons: our rows stay right, and the naive handler's go wrong.

use crate::support::console::Console;

/// A console with one account, and a deposit that both handlers have counted: its balance is 125.5.
async fn with_an_account() -> Console {
    let console = Console::start().await;
    console.command("account", "ann", "Open", &[("initialDeposit", "100")]).await;
    console.until("/", "the first event", |page| page.contains("AccountOpened")).await;
    console.until_idle().await;
    console.command("account", "ann", "Deposit", &[("amount", "25.50")]).await;
    console.until("/", "the deposit", |page| page.contains("MoneyDeposited")).await;
    let page = console.until_idle().await;
    assert!(page.contains("none differs"), "{page}");
    console
}

/// Our row has this balance, and `verify` finds nothing.
async fn is_right(console: &Console, balance: f64) {
    assert_eq!(console.row("account-summary", "ann").await["balance"], balance);
    for projection in ["account-summary", "account-statement"] {
        let (code, out, said) = console.projector(&["verify", projection]).await;
        assert_eq!(code, 0, "{out}{said}");
    }
}

async fn deposit(console: &Console, amount: &str) {
    console.command("account", "ann", "Deposit", &[("amount", amount)]).await;
}

#[tokio::test]
async fn a_batch_that_is_delivered_again_adds_money_to_the_naive_row_alone() {
    let console = with_an_account().await;
    console.press("again").await;
    let page = console.until("/", "a wrong row", |page| page.contains("rows wrong</strong>")).await;
    assert!(page.contains("= duplicate") && page.contains("<strong>try 2</strong>"), "{page}");
    // Ours, and the naive handler's.
    assert!(page.contains("<td class=\"good\">125.5</td><td class=\"bad\">151</td>"), "{page}");
    is_right(&console, 125.5).await;
}

#[tokio::test]
async fn a_lost_answer_and_a_death_in_mid_batch_count_twice_in_the_naive_row_alone() {
    for fault in ["lose", "kill"] {
        let console = with_an_account().await;
        console.press(fault).await;
        deposit(&console, "10").await;
        // Ours, and the naive handler's.
        let counted_twice = "<td class=\"good\">135.5</td><td class=\"bad\">145.5</td>";
        let page = console.until("/", "a deposit that counts twice", |page| page.contains(counted_twice)).await;
        assert_eq!(page.contains("† died"), fault == "kill", "{fault}: {page}");
        is_right(&console, 135.5).await;
    }
}

#[tokio::test]
async fn an_event_that_overtakes_an_older_one_is_applied_after_it() {
    let console = with_an_account().await;
    console.press("reorder").await;
    let page = console.page("/").await;
    assert!(page.contains("two events of one aggregate are awaited"), "{page}");
    deposit(&console, "1").await;
    deposit(&console, "2").await;
    let page = console.until("/", "a healed event", |page| page.contains("+ 1 healed")).await;
    assert!(page.contains("v4"), "{page}");
    let page = console.until_idle().await;
    // The older one comes afterwards, and counts already.
    assert!(page.contains("= duplicate") && !page.contains("are awaited"), "{page}");
    is_right(&console, 128.5).await;
}

#[tokio::test]
async fn while_requests_are_throttled_records_wait_and_then_count_once() {
    let console = with_an_account().await;
    console.press("throttle").await;
    deposit(&console, "10").await;
    let page = console.until("/", "the throttling", |page| page.contains("every request is throttled")).await;
    assert!(!page.contains("v3"), "{page}");
    console.until("/", "the deposit", |page| page.contains("v3")).await;
    is_right(&console, 135.5).await;
}

#[tokio::test]
async fn a_poison_event_parks_its_aggregate_and_blocks_the_naive_handler() {
    let console = with_an_account().await;
    console.press("poison").await;
    console.until("/", "a blocked shard", |page| page.contains("behind a batch that failed")).await;
    console.until("/parked", "the reason", |page| page.contains("missing field `initialDeposit`")).await;
    let page = console.page("/parked?projection=account-summary&aggregate=ann").await;
    assert!(page.contains("&quot;poison&quot;"), "{page}");

    // Others go on.
    console.command("account", "ben", "Open", &[("initialDeposit", "7")]).await;
    console.until("/", "another account", |page| page.contains(">ben</a>")).await;
    assert_eq!(console.row("account-summary", "ben").await["balance"], 7);
    // Until its records are too old, the naive handler has nothing of it.
    console
        .until("/", "a missing row", |page| {
            page.contains("<td class=\"good\">7</td><td class=\"bad\"><span class=\"absent\">none</span></td>")
        })
        .await;
    console.press("expire").await;
    console.until("/", "the lost records", |page| page.contains("given up") && page.matches("nothing waits").count() == 2).await;

    let (status, said) = console.send("/parked/redrive", &[]).await;
    assert!(status == 409 && said.contains("still parked: ann"), "{said}");
    let skip = ["parked", "skip", "--projection", "account-summary", "--aggregate", "ann", "--why", "test", "--yes"];
    let (code, out, said) = console.projector(&skip).await;
    assert_eq!(code, 0, "{out}{said}");
    let (status, said) = console.send("/parked/redrive", &[]).await;
    assert!(status == 200 && said == "2 entries redriven", "{said}");
    let page = console.page("/parked").await;
    assert!(page.contains("Nothing is parked."), "{page}");
    is_right(&console, 125.5).await;
}

#[tokio::test]
async fn a_broken_deployment_parks_nothing_and_its_records_count_after_the_next_one() {
    let console = with_an_account().await;
    console.press("break").await;
    // Enough aggregates for the breaker to tell the deployment from a bad record.
    for account in 0..20 {
        console.command("account", &format!("b{account}"), "Open", &[("initialDeposit", "1")]).await;
    }
    deposit(&console, "10").await;
    console
        .until("/", "failed records", |page| page.contains("✗ failed") && page.contains("rules that refuse everything are deployed"))
        .await;
    console.press("mend").await;
    console
        .until("/", "the end of all deliveries", |page| page.matches("nothing waits").count() == 2 && !page.contains("refuse everything"))
        .await;
    for parked in ["account-summary", "account-statement"] {
        // The first ones, before it was plain that the deployment is at fault.
        let (code, listed, said) = console.projector(&["parked", "redrive", "--projection", parked]).await;
        assert_eq!(code, 0, "{listed}{said}");
    }
    is_right(&console, 135.5).await;
}

#[tokio::test]
async fn made_up_traffic_is_counted_and_stops() {
    let console = Console::start().await;
    for (sample, rate) in [("0", "100"), ("1", "100"), ("2", "50")] {
        let (status, said) = console.send("/traffic", &[("sample", sample), ("per_second", rate)]).await;
        assert_eq!(status, 200, "{said}");
        console.until("/", "some events", |page| events_of(page) >= 60).await;
    }
    let (_, said) = console.send("/traffic", &[("sample", "0"), ("per_second", "0")]).await;
    assert_eq!(said, "traffic is off");
    let page =
        console.until("/", "no difference", |page| page.matches("nothing waits").count() == 2 && page.contains("none differs")).await;
    assert!(events_of(&page) >= 60, "{page}");
    for projection in ["account-summary", "forum-counters", "users-and-orders"] {
        let (code, out, said) = console.projector(&["verify", projection]).await;
        assert_eq!(code, 0, "{out}{said}");
    }
}

fn events_of(page: &str) -> u64 {
    let appended = page.split(" events appended").next().and_then(|before| before.rsplit('>').next());
    appended.and_then(|number| number.parse().ok()).unwrap_or_default()
}
