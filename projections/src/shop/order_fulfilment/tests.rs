use expect_test::expect;
use projection_vocabulary::{
    Decider, Value, data,
    process::{DynProcess as _, Outcome, ProcessRule, Requested, Target},
    read_value,
    sample::{Fact, record},
    testkit::{Arrival, Run, process},
    write_event,
};

use super::*;
use crate::shop;

const INSUFFICIENT: &str = "the funds are insufficient";
const INACTIVE: &str = "the account is not active";

fn item(product: &str, quantity: u32, price: &str) -> Item {
    Item { product_id: product.to_owned(), quantity, price: price.parse().expect("valid") }
}

fn placed(items: Vec<Item>, account: Option<&str>) -> Value {
    let mut total = Decimal::zero();
    for Item { quantity, price, .. } in &items {
        total += &(price * u64::from(*quantity));
    }
    let account_id = account.map(ToOwned::to_owned);
    write_event(&shop::Event::OrderPlaced { user_id: "ann".to_owned(), items, total, account_id }).expect("written").1
}

fn two_products() -> Value {
    placed(vec![item("tea", 3, "0.10"), item("cup", 1, "5"), item("tea", 1, "0.10")], Some("alice"))
}

fn order(data: Value) -> Run<OrderFulfilment> {
    process(OrderFulfilment).event("o1", "OrderPlaced", data)
}

fn dispatched(run: Run<OrderFulfilment>) -> Run<OrderFulfilment> {
    run.event("shipment-o1", "ShipmentDispatched", data! { orderId: "o1" })
}

/// An order whose shipment waits for its dispatch.
fn waiting() -> Run<OrderFulfilment> {
    order(two_products()).accepted("reserve").accepted("reserve").accepted("pay").accepted("ship").accepted("ship")
}

#[track_caller]
fn ends_with(run: &Run<OrderFulfilment>, last: &[&str]) {
    let timeline = run.timeline();
    assert!(timeline.lines().collect::<Vec<_>>().ends_with(last), "{timeline}");
}

#[test]
fn an_order_is_reserved_paid_shipped_and_finished() {
    let run = dispatched(waiting()).accepted("finish").accepted("finish").accepted("finish");
    expect![[r#"
        received OrderPlaced of o1
        recorded FulfilmentBegun {"order":{"accountId":"alice","items":[{"price":0.1,"productId":"tea","quantity":3},{"price":5,"productId":"cup","quantity":1},{"price":0.1,"productId":"tea","quantity":1}],"orderId":"o1","total":5.4}}
        would undo cancel-order by order o1: {"ChangeStatus":{"status":"CANCELLED"}}
        sent reserve to stock cup: {"Reserve":{"orderId":"o1","quantity":1}}
        sent reserve to stock tea: {"Reserve":{"orderId":"o1","quantity":4}}
        accepted reserve
        accepted reserve
        sent pay to account alice: {"Withdraw":{"amount":5.4}}
        accepted pay
        sent ship to shipment shipment-o1: {"Create":{"items":[{"price":0.1,"productId":"tea","quantity":3},{"price":5,"productId":"cup","quantity":1},{"price":0.1,"productId":"tea","quantity":1}],"orderId":"o1"}}
        sent ship to order o1: {"ChangeStatus":{"status":"PAID"}}
        timer ship runs out after 259200 s
        accepted ship
        accepted ship
        received ShipmentDispatched of shipment-o1
        timer ship stopped
        sent finish to stock cup: {"Ship":{"orderId":"o1"}}
        sent finish to stock tea: {"Ship":{"orderId":"o1"}}
        sent finish to order o1: {"ChangeStatus":{"status":"SHIPPED"}}
        accepted finish
        accepted finish
        accepted finish
        completed
    "#]]
    .assert_eq(&run.timeline());
}

#[test]
fn an_order_without_an_account_is_none_of_its_business() {
    let route = |aggregate: &str, event_type, data| {
        let event = record([Fact { aggregate: aggregate.into(), event_type, data }]).next().expect("one event");
        ProcessRule(OrderFulfilment).route(&event).expect("an event of its own").map(|instance| instance.to_string())
    };
    let items = || vec![item("tea", 1, "1")];
    assert_eq!(route("o1", "OrderPlaced", placed(items(), None)), None);
    assert_eq!(route("o1", "OrderPlaced", placed(items(), Some("alice"))).as_deref(), Some("order-fulfilment/o1"));
    // Nor is the dispatch of a shipment that it has not created.
    assert_eq!(route("parcel-7", "ShipmentDispatched", data! { orderId: "o1" }), None);
    assert_eq!(route("shipment-o1", "ShipmentDispatched", data! { orderId: "o1" }).as_deref(), Some("order-fulfilment/o1"));
}

#[test]
fn an_order_that_costs_nothing_is_not_paid() {
    let run = order(placed(vec![item("sample", 1, "0")], Some("alice"))).accepted("reserve");
    assert_eq!((run.instance().waiting("pay"), run.instance().waiting("ship")), (0, 2));
}

#[test]
fn without_stock_the_other_product_is_released() {
    let run = order(two_products()).accepted("reserve").refused("reserve", "there is not enough in stock");
    ends_with(
        &run,
        &[
            "failed: `reserve` was refused: there is not enough in stock",
            r#"sent the undo of reserve to stock cup: {"Release":{"orderId":"o1"}}"#,
        ],
    );
    let run = run.accepted("reserve");
    ends_with(
        &run,
        &["accepted the undo of reserve", r#"sent the undo of cancel-order to order o1: {"ChangeStatus":{"status":"CANCELLED"}}"#],
    );
    ends_with(&run.accepted("cancel-order"), &["accepted the undo of cancel-order", "undone"]);
}

#[test]
fn without_funds_all_products_are_released() {
    let run = order(two_products()).accepted("reserve").accepted("reserve").refused("pay", INSUFFICIENT);
    ends_with(&run, &[r#"sent the undo of reserve to stock tea: {"Release":{"orderId":"o1"}}"#]);
    let run = run.accepted("reserve");
    ends_with(&run, &[r#"sent the undo of reserve to stock cup: {"Release":{"orderId":"o1"}}"#]);
    assert_eq!(run.accepted("reserve").accepted("cancel-order").status(), "undone");
}

#[test]
fn a_shipment_that_is_not_dispatched_in_time_is_undone_in_reverse() {
    let run = waiting().timed_out("ship").accepted("ship").accepted("pay").accepted("reserve").accepted("reserve").accepted("cancel-order");
    ends_with(
        &run,
        &[
            "timer ship ran out",
            "failed: `ship` did not end in time",
            r#"sent the undo of ship to shipment shipment-o1: {"Cancel":{}}"#,
            "accepted the undo of ship",
            r#"sent the undo of pay to account alice: {"Deposit":{"amount":5.4}}"#,
            "accepted the undo of pay",
            r#"sent the undo of reserve to stock tea: {"Release":{"orderId":"o1"}}"#,
            "accepted the undo of reserve",
            r#"sent the undo of reserve to stock cup: {"Release":{"orderId":"o1"}}"#,
            "accepted the undo of reserve",
            r#"sent the undo of cancel-order to order o1: {"ChangeStatus":{"status":"CANCELLED"}}"#,
            "accepted the undo of cancel-order",
            "undone",
        ],
    );
}

#[test]
fn a_refund_to_a_closed_account_is_stuck_until_it_is_retried_or_resolved() {
    let stuck = waiting().timed_out("ship").accepted("ship").refused("pay", INACTIVE);
    ends_with(&stuck, &["stuck: the undo of `pay` was refused: the account is not active"]);
    let again = stuck.clone().retried().refused("pay", INACTIVE);
    assert_eq!((stuck.status(), again.status()), ("stuck", "stuck"));
    let undone = again.clone().retried().accepted("pay").accepted("reserve").accepted("reserve").accepted("cancel-order");
    assert_eq!((undone.status(), again.resolved().status()), ("undone", "resolved"));
}

#[test]
fn a_second_order_of_the_same_name_changes_nothing() {
    let once = waiting();
    let twice = once.clone().event("o1", "OrderPlaced", two_products());
    assert_eq!(twice.timeline(), format!("{}received OrderPlaced of o1\n", once.timeline()));
}

#[test]
fn more_of_one_product_than_a_stock_can_reserve_cancels_the_order() {
    let run = order(placed(vec![item("tea", u32::MAX, "0"), item("tea", 1, "0")], Some("alice")));
    ends_with(
        &run,
        &[
            "failed: the order needs more of one product than a stock can reserve",
            r#"sent the undo of cancel-order to order o1: {"ChangeStatus":{"status":"CANCELLED"}}"#,
        ],
    );
    assert_eq!(run.accepted("cancel-order").status(), "undone");
}

/// Where a request went, and what it says there.
fn told(request: &Requested) -> String {
    let to = request.to.as_ref().expect("it was sent");
    format!("{} {}", to.place(), to.content())
}

#[test]
fn an_order_ends_whatever_is_refused_and_in_whatever_order_things_come() {
    let arrivals = [
        Arrival { aggregate: "o1", event_type: "OrderPlaced", data: two_products() },
        Arrival { aggregate: "shipment-o1", event_type: "ShipmentDispatched", data: data! { orderId: "o1" } },
    ];
    let ends = |refused: &[&str]| -> Vec<At> {
        let refused = |request: &Requested| refused.iter().any(|refused| told(request).starts_with(refused));
        let answer = |request: &Requested| if refused(request) { Err("no".to_owned()) } else { Ok(Value::Null) };
        process(OrderFulfilment).every_order(&arrivals, answer).into_iter().collect()
    };
    // The shipment's time may run out in any of them.
    assert_eq!(ends(&[]), [At::Completed, At::Undone]);
    let steps = [
        r#"stock cup {"Reserve""#,
        r#"stock tea {"Reserve""#,
        "account alice {\"Withdraw\"",
        r#"shipment shipment-o1 {"Create""#,
        r#"order o1 {"ChangeStatus":{"status":"PAID"}}"#,
        r#"stock cup {"Ship""#,
        r#"stock tea {"Ship""#,
        r#"order o1 {"ChangeStatus":{"status":"SHIPPED"}}"#,
    ];
    for step in steps {
        assert_eq!(ends(&[step]), [At::Undone], "{step}");
    }
    let undos = [
        r#"stock cup {"Release""#,
        r#"stock tea {"Release""#,
        r#"account alice {"Deposit""#,
        r#"shipment shipment-o1 {"Cancel""#,
        r#"order o1 {"ChangeStatus":{"status":"CANCELLED"}}"#,
    ];
    for undo in undos {
        assert_eq!(ends(&[undo]), [At::Stuck, At::Completed], "{undo}");
        assert_eq!(ends(&[undo, r#"order o1 {"ChangeStatus":{"status":"SHIPPED"}}"#]), [At::Stuck], "{undo}");
    }
}

/// The aggregates that are commanded, with deciders that answer.
#[derive(Clone, Debug, Default, PartialEq)]
struct World {
    stocks: BTreeMap<String, stock::State>,
    accounts: BTreeMap<String, account::State>,
    shipments: BTreeMap<String, shipment::State>,
    orders: BTreeMap<String, order::State>,
}

fn handle<D: Decider>(decider: &D, state: &mut D::State, command: &D::Command) -> Result<(), String> {
    let events = decider.decide(state, command).map_err(|refusal| refusal.to_string())?;
    for event in events {
        decider.evolve(state, &event);
    }
    Ok(())
}

impl World {
    fn new(tea: u32, funds: &str) -> Self {
        let mut world = Self::default();
        let items = vec![item("tea", 1, "1")];
        let place = order::Command::Place { user_id: "ann".to_owned(), items, account_id: Some("alice".to_owned()) };
        handle(&Order, world.orders.entry("o1".to_owned()).or_default(), &place).expect("placed");
        for (product, quantity) in [("tea", tea), ("cup", 1)] {
            let stock = world.stocks.entry(product.to_owned()).or_default();
            handle(&Stock, stock, &stock::Command::Receive { quantity }).expect("received");
        }
        let open = account::Command::Open { initial_deposit: funds.parse().expect("valid") };
        handle(&Account, world.accounts.entry("alice".to_owned()).or_default(), &open).expect("opened");
        world
    }

    fn carry_out(&mut self, to: &Target) -> Result<(), String> {
        let Target::Command { kind, aggregate, command } = to else { panic!("it makes no calls") };
        let id = || aggregate.clone();
        match kind.as_str() {
            Stock::KIND => handle(&Stock, self.stocks.entry(id()).or_default(), &read_value(command).expect("a command")),
            Account::KIND => handle(&Account, self.accounts.entry(id()).or_default(), &read_value(command).expect("a command")),
            Shipment::KIND => handle(&Shipment, self.shipments.entry(id()).or_default(), &read_value(command).expect("a command")),
            Order::KIND => handle(&Order, self.orders.entry(id()).or_default(), &read_value(command).expect("a command")),
            other => panic!("{other}"),
        }
    }

    /// Answers until nothing waits any more.
    fn answer(&mut self, mut run: Run<OrderFulfilment>) -> Run<OrderFulfilment> {
        loop {
            let waiting = run.instance().requests().values().find(|request| request.outcome == Outcome::Waiting).cloned();
            let Some(Requested { name, to: Some(to), .. }) = waiting else { return run };
            run = match self.carry_out(&to) {
                Ok(()) => run.accepted(&name),
                Err(message) => run.refused(&name, &message),
            };
        }
    }

    fn balance(&self) -> String {
        self.accounts["alice"].balance.to_string()
    }

    /// Of a product: what is available, reserved and shipped.
    fn stock(&self, product: &str) -> (u64, usize, u64) {
        let stock::State { available, reservations, shipped } = &self.stocks[product];
        (*available, reservations.len(), *shipped)
    }

    fn dispatch(&mut self) {
        let shipment = self.shipments.get_mut("shipment-o1").expect("created");
        handle(&Shipment, shipment, &shipment::Command::Dispatch {}).expect("dispatched");
    }
}

#[test]
fn the_deciders_of_the_shop_and_the_bank_agree_with_it() {
    let mut world = World::new(10, "6");
    let run = world.answer(order(two_products()));
    assert_eq!((world.balance().as_str(), world.stock("tea"), world.stock("cup")), ("0.6", (6, 1, 0), (0, 1, 0)));
    assert_eq!(world.orders["o1"], order::State::Placed(Status::Paid));

    let mut late = world.clone();
    let undone = late.answer(run.clone().timed_out("ship"));
    assert_eq!((undone.status(), late.balance().as_str(), late.stock("tea")), ("undone", "6", (10, 0, 0)));
    assert_eq!((late.orders["o1"], &late.shipments["shipment-o1"]), (order::State::Placed(Status::Cancelled), &shipment::State::Cancelled));

    let mut closed = world.clone();
    closed.accounts.get_mut("alice").expect("open").status = account::Status::Closed;
    let stuck = closed.answer(run.clone().timed_out("ship"));
    assert_eq!((stuck.status(), closed.balance().as_str(), closed.stock("tea")), ("stuck", "0.6", (6, 1, 0)));
    closed.accounts.get_mut("alice").expect("closed").status = account::Status::Active;
    let mended = closed.answer(stuck.retried());
    assert_eq!((mended.status(), closed.balance().as_str(), closed.stock("tea")), ("undone", "6", (10, 0, 0)));

    // An order that somebody else cancels in time.
    let mut cancelled = world.clone();
    let cancel = order::Command::ChangeStatus { status: Status::Cancelled };
    handle(&Order, cancelled.orders.get_mut("o1").expect("placed"), &cancel).expect("cancelled");
    let undone = cancelled.answer(run.clone().timed_out("ship"));
    assert_eq!((undone.status(), cancelled.balance().as_str()), ("undone", "6"));

    world.dispatch();
    let mut raced = world.clone();
    let stuck = raced.answer(run.clone().timed_out("ship"));
    ends_with(&stuck, &["stuck: the undo of `ship` was refused: the shipment was dispatched already"]);

    let done = world.answer(dispatched(run));
    assert_eq!((done.status(), world.balance().as_str(), world.stock("tea")), ("completed", "0.6", (6, 0, 4)));
    assert_eq!(world.orders["o1"], order::State::Placed(Status::Shipped));
}

#[test]
fn what_is_refused_leaves_the_shop_as_it_was() {
    for (tea, funds, why) in
        [(3, "6", "`reserve` was refused: there is not enough in stock"), (10, "5.39", "`pay` was refused: the funds are insufficient")]
    {
        let mut world = World::new(tea, funds);
        let before = world.clone();
        let run = world.answer(order(two_products()));
        assert_eq!((run.status(), run.instance().why()), ("undone", Some(why)));
        assert_eq!(world.orders["o1"], order::State::Placed(Status::Cancelled));
        assert_eq!((&world.stocks, &world.accounts, &world.shipments), (&before.stocks, &before.accounts, &before.shipments));
    }
}
