//! Latency and answers against load, as an SVG picture.

use plotters::{
    coord::{ranged1d::Ranged, types::RangedCoordf64},
    prelude::*,
};

use crate::{BenchError, Latency, Report, Step, report::time_text};

const SIZE: (u32, u32) = (960, 720);
const LATENCY_SHARE: i32 = 60;
const POINT: i32 = 3;

type Figure = fn(&Latency) -> u64;

/// Lines of the upper chart, and how they look.
const PERCENTILES: [(&str, Figure, RGBColor); 5] = [
    ("p50", |l| l.p50, RGBColor(0x1b, 0x9e, 0x77)),
    ("p90", |l| l.p90, RGBColor(0x71, 0x93, 0x1b)),
    ("p99", |l| l.p99, RGBColor(0xd9, 0x5f, 0x02)),
    ("p99.9", |l| l.p999, RGBColor(0x75, 0x70, 0xb3)),
    ("max", |l| l.max, RGBColor(0x99, 0x99, 0x99)),
];

/// Draws the steps by offered rate: above the latencies (logarithmic) of good answers, below how many there were.
pub fn svg(report: &Report) -> Result<String, BenchError> {
    let mut steps: Vec<&Step> = report.steps.iter().collect();
    steps.sort_by(|a, b| a.rate_offered.total_cmp(&b.rate_offered));
    let mut text = String::new();
    draw(&mut text, report, &steps).map_err(|error| BenchError::Plot { reason: error.to_string() })?;
    Ok(text)
}

fn draw(text: &mut String, report: &Report, steps: &[&Step]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("{} {}", report.setup.rpc, report.setup.url);
    let (upper, lower) =
        root.titled(&title, ("sans-serif", 18))?.split_vertically(LATENCY_SHARE.percent_height());
    latencies(&upper, steps)?;
    answers(&lower, steps)?;
    root.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn latencies<'a>(area: &Area<'a>, steps: &[&Step]) -> Drawn<'a> {
    let answered = || steps.iter().map(|step| &step.latency_us).filter(|latency| latency.count > 0);
    let lowest = answered().map(|latency| latency.p50).min().unwrap_or(1).max(1) as f64;
    let highest = answered().map(|latency| latency.max).max().unwrap_or(1).max(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(80)
        .build_cartesian_2d(loads(steps), (lowest / 1.5..highest * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("requests offered, a second")
        .y_desc("latency from the intended send")
        .y_label_formatter(&|micros| time_text(*micros as u64))
        .draw()?;
    for (name, figure, colour) in PERCENTILES {
        let points: Vec<(f64, f64)> = steps
            .iter()
            .filter(|step| step.latency_us.count > 0)
            .map(|step| (step.rate_offered, figure(&step.latency_us).max(1) as f64))
            .collect();
        line(&mut chart, name, colour, points)?;
    }
    legend(&mut chart)
}

/// What a line shows of a step, in answers a second.
type Rate = fn(&Step) -> f64;

fn answers<'a>(area: &Area<'a>, steps: &[&Step]) -> Drawn<'a> {
    let highest = steps.iter().map(|step| step.rate_answered).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(80)
        .build_cartesian_2d(loads(steps), 0.0..highest * 1.1)?;
    chart.configure_mesh().x_desc("requests offered, a second").y_desc("answers a second").draw()?;
    let lines: [(&str, Rate, RGBColor); 2] = [
        ("good answers", |step| step.rate_answered, RGBColor(0x33, 0x66, 0xaa)),
        ("in the deadline", |step| step.rate_in_deadline, RGBColor(0x1b, 0x9e, 0x77)),
    ];
    for (name, figure, colour) in lines {
        let points: Vec<(f64, f64)> = steps.iter().map(|step| (step.rate_offered, figure(step))).collect();
        line(&mut chart, name, colour, points)?;
    }
    legend(&mut chart)
}

type Chart<'a, 'b, Y> = ChartContext<'b, SVGBackend<'a>, Cartesian2d<RangedCoordf64, Y>>;

/// A line through points that show.
fn line<'a, 'b, Y: Ranged<ValueType = f64> + 'b>(
    chart: &mut Chart<'a, 'b, Y>,
    name: &str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
) -> Drawn<'a> {
    chart
        .draw_series(LineSeries::new(points.clone(), colour))?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    chart.draw_series(points.into_iter().map(|point| Circle::new(point, POINT, colour.filled())))?;
    Ok(())
}

/// What the lines are called.
fn legend<'a: 'b, 'b, Y: Ranged<ValueType = f64> + 'b>(chart: &mut Chart<'a, 'b, Y>) -> Drawn<'a> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()
}

/// The horizontal axis, with room at both ends even for a single step.
fn loads(steps: &[&Step]) -> std::ops::Range<f64> {
    let highest = steps.last().map_or(1.0, |step| step.rate_offered);
    0.0..highest * 1.05
}

#[cfg(test)]
mod tests;
