//! A plot with two logarithmic axes, as SVG: readable in light and dark.

use std::{fmt::Write as _, time::Duration};

/// What a line shows, and its points: a number, and how long it took.
pub struct Line {
    pub name: &'static str,
    pub points: Vec<(usize, Duration)>,
}

/// The edges of the plot, in pixels.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 500.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 404.0;

/// Draws the lines, each with its name at its end, and the slope of a linear growth.
pub fn draw(title: &str, x_name: &str, lines: &[Line]) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let points: Vec<Vec<(f64, f64)>> =
        lines.iter().map(|line| line.points.iter().map(|(n, took)| (*n as f64, ms(*took))).collect()).collect();
    let (x, y) =
        (Axis::of(points.iter().flatten().map(|(x, _)| *x), LEFT, RIGHT), Axis::of(points.iter().flatten().map(|(_, y)| *y), BOTTOM, TOP));
    let mut svg = String::from(HEAD);
    let mut put = |line: std::fmt::Arguments<'_>| svg.write_fmt(format_args!("{line}\n")).expect("a text");
    put(format_args!("<text x=\"{LEFT}\" y=\"18\" class=\"title\">{title}, in ms</text>"));
    for value in x.powers() {
        let at = x.at(value);
        put(format_args!(
            "<path class=\"grid\" d=\"M{at:.1} {TOP}V{BOTTOM}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>",
            BOTTOM + 18.0
        ));
    }
    for value in y.powers() {
        let at = y.at(value);
        put(format_args!(
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            LEFT - 8.0,
            at + 4.0
        ));
    }
    put(format_args!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x_name}</text>", f64::midpoint(LEFT, RIGHT), BOTTOM + 36.0));
    put(format_args!("{}", linear(&x, &y)));
    let mut ends: Vec<_> =
        lines.iter().zip(&points).enumerate().filter_map(|(at, (line, points))| Some((at, line.name, y.at(points.last()?.1)))).collect();
    ends.sort_by(|one, other| one.2.total_cmp(&other.2));
    // Names keep a line's height apart, from the top down.
    let mut lowest = f64::MIN;
    for (_, _, at) in &mut ends {
        *at = at.max(lowest + 15.0);
        lowest = *at;
    }
    for (number, points) in points.iter().enumerate() {
        let path: Vec<_> = points.iter().map(|(n, took)| format!("{:.1} {:.1}", x.at(*n), y.at(*took))).collect();
        put(format_args!("<path class=\"line c{number}\" d=\"M{}\"/>", path.join("L")));
    }
    for (number, name, at) in ends {
        put(format_args!("<text x=\"{:.1}\" y=\"{:.1}\" class=\"c{number}\">{name}</text>", RIGHT + 8.0, at + 4.0));
    }
    svg + "</svg>\n"
}

/// Twice as much takes twice as long: from the left edge on.
fn linear(x: &Axis, y: &Axis) -> String {
    let decades = (x.high - x.low).min(y.high - y.low);
    let (x_end, y_end) = (10_f64.powf(x.low + decades), 10_f64.powf(y.low + decades));
    let (x_1, y_1, x_2, y_2) = (x.at(10_f64.powf(x.low)), y.at(10_f64.powf(y.low)), x.at(x_end), y.at(y_end));
    format!(
        "<path class=\"linear\" d=\"M{x_1:.1} {y_1:.1}L{x_2:.1} {y_2:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">linear</text>",
        x_2 - 6.0,
        y_2 + 18.0
    )
}

/// From one power of ten to another, on these pixels.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        Self { low: low.log10().floor(), high: high.log10().ceil(), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn powers(&self) -> impl Iterator<Item = f64> {
        let (mut power, high) = (self.low, self.high);
        std::iter::from_fn(move || {
            let value = (power <= high).then(|| 10_f64.powf(power));
            power += 1.0;
            value
        })
    }
}

const HEAD: &str = "\
<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 450\" width=\"720\" height=\"450\" role=\"img\">
<style>
svg { background: #ffffff; font: 12px system-ui, sans-serif }
text { fill: #1f2328 } .title { font-weight: 600 }
.grid { stroke: #d1d9e0 } .linear { stroke: #59636e; stroke-dasharray: 5 5 } .line { fill: none; stroke-width: 2 }
.line.c0 { stroke: #0969da } text.c0 { fill: #0969da } .line.c1 { stroke: #1a7f37 } text.c1 { fill: #1a7f37 }
.line.c2 { stroke: #9a6700 } text.c2 { fill: #9a6700 } .line.c3 { stroke: #8250df } text.c3 { fill: #8250df }
.line.c4 { stroke: #cf222e } text.c4 { fill: #cf222e } .line.c5 { stroke: #0e7490 } text.c5 { fill: #0e7490 }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117 } text { fill: #e6edf3 } .grid { stroke: #30363d } .linear { stroke: #9198a1 }
.line.c0 { stroke: #4493f8 } text.c0 { fill: #4493f8 } .line.c1 { stroke: #3fb950 } text.c1 { fill: #3fb950 }
.line.c2 { stroke: #d29922 } text.c2 { fill: #d29922 } .line.c3 { stroke: #ab7df8 } text.c3 { fill: #ab7df8 }
.line.c4 { stroke: #f85149 } text.c4 { fill: #f85149 } .line.c5 { stroke: #39c5cf } text.c5 { fill: #39c5cf }
}
</style>
";
