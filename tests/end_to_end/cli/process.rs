//! Orders through their process, as an operator follows them in a data file.

use std::path::Path;

use serde_json::Value as Json;

use super::command::run;

struct Shop {
    folder: tempfile::TempDir,
}

impl Shop {
    /// With 10 pieces of tea, and accounts with 100.
    fn open() -> Self {
        let shop = Self { folder: tempfile::tempdir().expect("a folder") };
        shop.done(r#"command stock tea '{"Receive": {"quantity": 10}}'"#);
        for account in ["ann", "ben"] {
            shop.done(&format!(r#"command account {account} '{{"Open": {{"initialDeposit": 100}}}}'"#));
        }
        shop
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The output of a command that succeeds.
    fn done(&self, line: &str) -> String {
        let (code, out, said) = run(self.path(), line);
        assert_eq!(code, 0, "{line}: {out}{said}");
        out
    }

    fn order(&self, order: &str, account: &str, quantity: u32, price: u32) {
        let items = format!(r#"[{{"productId": "tea", "quantity": {quantity}, "price": {price}}}]"#);
        self.done(&format!(
            r#"command order {order} '{{"Place": {{"userId": "u1", "items": {items}, "accountId": "{account}"}}}}' --id place"#
        ));
    }

    /// As the deployed worker would.
    fn work(&self) {
        self.done("catch-up --all");
    }

    fn dispatch(&self, order: &str) {
        self.done(&format!(r#"command shipment shipment-{order} '{{"Dispatch": {{}}}}'"#));
    }

    /// What `process show` says has happened, without versions and times.
    fn history(&self, order: &str) -> (String, Vec<String>) {
        let out = self.done(&format!("process show order-fulfilment/{order} --json"));
        let shown: Json = serde_json::from_str(&out).expect("JSON");
        let types = shown["history"].as_array().expect("a list").iter().map(|event| event["type"].as_str().expect("a type").to_owned());
        (shown["status"].as_str().expect("a status").to_owned(), types.collect())
    }

    fn status(&self, order: &str) -> String {
        self.history(order).0
    }

    fn row(&self, order: &str) -> String {
        self.done(&format!("rows get users-and-orders {order}"))
    }

    fn balance(&self, account: &str) -> Json {
        let out = self.done(&format!("rows get account-summary {account} --json"));
        serde_json::from_str::<Json>(&out).expect("JSON")["balance"].clone()
    }
}

#[test]
fn five_orders_end_in_five_ways_and_an_operator_sees_how() {
    let shop = Shop::open();
    // One that completes, one without stock, one without funds, one that is never dispatched, and one whose refund is refused.
    for (order, account, quantity, price) in
        [("o1", "ann", 2, 10), ("o2", "ann", 11, 1), ("o3", "ann", 1, 1_000), ("o4", "ann", 1, 30), ("o5", "ben", 1, 100)]
    {
        shop.order(order, account, quantity, price);
    }
    shop.work();
    let of = ["o1", "o2", "o3", "o4", "o5"].map(|order| shop.status(order));
    assert_eq!(of, ["open", "undone", "undone", "open", "open"]);
    let listed = shop.done("process list");
    for order in ["o1", "o4", "o5"] {
        assert!(listed.contains(&format!("order-fulfilment/{order} ")), "{listed}");
    }
    assert!(!listed.contains("o2"), "{listed}");

    shop.dispatch("o1");
    shop.work();
    assert_eq!((shop.status("o1").as_str(), shop.row("o1").contains("SHIPPED")), ("completed", true));
    assert!(shop.row("o2").contains("CANCELLED") && shop.row("o3").contains("CANCELLED"));
    let shown = shop.done("process show order-fulfilment/o3");
    assert!(shown.contains("order-fulfilment/o3: undone: `pay` was refused: the funds are insufficient"), "{shown}");
    for line in ["sent reserve to stock tea", "refused pay: the funds are insufficient", "sent the undo of reserve to stock tea"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }

    // The account is closed before the time of its order is up.
    shop.done(r#"command account ben '"Close"'"#);
    let (code, _, said) = run(shop.path(), "tick --at tomorrow");
    assert!(code == 2 && said.contains("--at is not an RFC 3339 timestamp"), "{said}");
    assert_eq!(shop.done("tick"), "0 timers due, 0 ran out now\n");
    assert_eq!(shop.done("tick --at 2999-01-01T00:00:00Z"), "2 timers due, 2 ran out now\n");
    shop.work();
    assert_eq!((shop.status("o4").as_str(), shop.balance("ann").to_string().as_str()), ("undone", "80"));
    let (_, history) = shop.history("o4");
    assert!(history.contains(&"ProcessTimedOut".to_owned()) && history.last().is_some_and(|last| last == "ProcessUndone"), "{history:?}");
    assert_eq!((shop.status("o5").as_str(), shop.balance("ben").to_string().as_str()), ("stuck", "0"));
    let (code, listed, _) = run(shop.path(), "process list order-fulfilment --status stuck");
    assert!(code == 1 && listed.contains("the undo of `pay` was refused: the account is not active"), "{listed}");

    // Trying again does not help, so the desk pays in cash.
    let retried = shop.done("process retry order-fulfilment/o5 --why 'tried once more' --by eve --yes");
    assert_eq!(retried, "order-fulfilment/o5 retried: the worker carries out what was sent\n");
    shop.work();
    assert_eq!(shop.status("o5"), "stuck");
    shop.done("process resolve order-fulfilment/o5 --why 'paid in cash' --by eve --yes");
    shop.work();
    let shown = shop.done("process show order-fulfilment/o5");
    assert!(shown.contains("order-fulfilment/o5: resolved") && shown.contains("resolved: paid in cash (eve)"), "{shown}");
    let (code, _, said) = run(shop.path(), "process resolve order-fulfilment/o5 --why again --yes");
    assert!(code == 1 && said.contains("the instance is not stuck but resolved"), "{said}");

    let verified = shop.done("verify order-fulfilment");
    assert!(verified.contains("5 instances with"), "{verified}");
    assert!(verified.contains("clean: every request has one answer, and no timer is overdue"), "{verified}");
    let (code, out, said) = run(shop.path(), "rebuild-projection order-fulfilment");
    assert!(code == 2 && said.contains("is a process, of which nothing is rebuilt"), "{out}{said}");
}

#[test]
fn what_is_no_instance_is_named() {
    let shop = Shop::open();
    for (line, code, expected) in [
        ("process show order-fulfilment/o9", 1, "there is no instance order-fulfilment/o9: `projector process list` names them"),
        ("process show o9", 2, "an instance is named PROCESS/INSTANCE, as `projector process list` does"),
        ("process list refunds", 2, "no process refunds is in this program, which has transfers, order-fulfilment"),
        ("process retry order-fulfilment/o9 --yes", 1, "there is no instance order-fulfilment/o9"),
        ("process resolve transfers/t9 --yes", 1, "there is no instance transfers/t9"),
    ] {
        let (found, out, said) = run(shop.path(), line);
        assert!(found == code && said.contains(expected), "{line}: {found} {out}{said}");
    }
    assert!(shop.done("process list").ends_with("no instances at that status\n"));
}
