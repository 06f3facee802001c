//! Pictures of the figures: bars, in groups, in panels. SVG, made of the data and of nothing else.

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::OURS;
use super::page::called;
use super::rows::IoRow;

/// The files, seen from the root of the project.
pub const IOPS: &str = "docs/performance-iops.svg";
/// Instructions.
pub const INSTRUCTIONS: &str = "docs/performance-instructions.svg";
/// Requests.
pub const REQUESTS: &str = "docs/performance-requests.svg";

/// The size of a panel, in pixels.
const PANEL: (u32, u32) = (560, 300);
/// Above the panels: the title, and who is who.
const TOP: u32 = 64;

const SMALL_FONT: (&str, u32) = ("sans-serif", 13);
const FONT: (&str, u32) = ("sans-serif", 16);
const LARGE_FONT: (&str, u32) = ("sans-serif", 22);

/// Whose bars there are: the system, the mode, the colour.
type Series = (&'static str, &'static str, RGBColor);

const SERIES: [Series; 7] = [
    (OURS, "static", RGBColor(160, 160, 160)),
    (OURS, "strict", RGBColor(31, 119, 180)),
    (OURS, "bounce", RGBColor(44, 160, 44)),
    (OURS, "deferred", RGBColor(148, 103, 189)),
    (OURS, "deferred-fresh", RGBColor(197, 176, 213)),
    ("linux", "strict", RGBColor(214, 39, 40)),
    ("linux", "lazy", RGBColor(255, 152, 150)),
];

/// What is drawn of a row.
type Figure = fn(&IoRow) -> Option<f64>;

/// The scale of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Linear,
    /// From 0.1 on; what is less is drawn as that.
    Logarithmic,
}

/// One picture.
struct Picture {
    file: &'static str,
    title: &'static str,
    figure: Figure,
    scale: Scale,
}

const PICTURES: [Picture; 3] = [
    Picture {
        file: IOPS,
        title: "I/Os per second over bypass in the same round: random reads, one at a time",
        figure: |row| Some(row.over_bypass?.value),
        scale: Scale::Linear,
    },
    Picture {
        file: INSTRUCTIONS,
        title: "Instructions added per I/O: random reads, one at a time",
        figure: |row| Some(row.added?.value),
        scale: Scale::Logarithmic,
    },
    Picture {
        file: REQUESTS,
        title: "Requests to the IOMMU per I/O: random reads, one at a time",
        figure: IoRow::requests,
        scale: Scale::Linear,
    },
];

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PlotError(String);

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for PlotError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

/// A group of bars: its name, and a value for each of [`SERIES`].
type Group = (String, Vec<Option<f64>>);

/// The groups of one device on one architecture.
struct Panel {
    title: String,
    groups: Vec<Group>,
}

/// All pictures, as files and their contents; none of what was not measured.
///
/// # Errors
///
/// [`PlotError`].
pub fn pictures(rows: &[IoRow]) -> Result<Vec<(&'static str, String)>, PlotError> {
    let mut all = Vec::new();
    for picture in &PICTURES {
        let panels = panels(rows, picture.figure);
        if !panels.is_empty() {
            all.push((picture.file, draw(picture, &panels)?));
        }
    }
    Ok(all)
}

fn panels(rows: &[IoRow], figure: Figure) -> Vec<Panel> {
    let shown = |row: &&IoRow| {
        row.operation == "read" && row.pattern == "rand" && row.depth == 1 && figure(row).is_some()
    };
    let shown: Vec<&IoRow> = rows.iter().filter(shown).collect();
    let mut places: Vec<(&str, &str)> =
        shown.iter().map(|row| (&*row.arch, &*row.device)).collect();
    places.sort_unstable();
    places.dedup();
    let mut panels = Vec::new();
    for (arch, device) in places {
        let here: Vec<&IoRow> = shown
            .iter()
            .filter(|row| (&*row.arch, &*row.device) == (arch, device))
            .copied()
            .collect();
        let mut shapes: Vec<(u64, &str)> =
            here.iter().map(|row| (row.size, &*row.layout)).collect();
        shapes.sort_unstable();
        shapes.dedup();
        let group = |(size, layout): (u64, &str)| {
            let value = |(system, mode, _): &Series| {
                let is_it = |row: &&&IoRow| {
                    (row.size, &*row.layout, &*row.system, &*row.mode)
                        == (size, layout, *system, *mode)
                };
                here.iter().find(is_it).and_then(|row| figure(row))
            };
            (called(size, layout), SERIES.iter().map(value).collect())
        };
        panels.push(Panel {
            title: format!("{device} on {arch}"),
            groups: shapes.into_iter().map(group).collect(),
        });
    }
    panels
}

fn draw(picture: &Picture, panels: &[Panel]) -> Result<String, PlotError> {
    let columns = panels.len().min(2);
    let lines = panels.len().div_ceil(columns);
    let size = (PANEL.0 * columns as u32, PANEL.1 * lines as u32 + TOP);
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE)?;
        let (head, body) = area.split_vertically(TOP);
        legend(&head, picture, panels)?;
        let top = panels
            .iter()
            .flat_map(|panel| &panel.groups)
            .flat_map(|(_, values)| values.iter().flatten())
            .fold(1.0_f64, |top, value| top.max(*value));
        for (place, panel) in body.split_evenly((lines, columns)).iter().zip(panels) {
            match picture.scale {
                Scale::Linear => bars(place, panel, 0.0..top * 1.1, 0.0)?,
                Scale::Logarithmic => {
                    bars(place, panel, (0.1..top * 3.0).log_scale(), 0.1)?;
                }
            }
        }
        area.present()?;
    }
    // One end of a line, on every machine.
    Ok(text.replace("\r\n", "\n"))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// The title, and the colours of those who are there.
fn legend(area: &Area<'_>, picture: &Picture, panels: &[Panel]) -> Result<(), PlotError> {
    area.draw(&Text::new(picture.title, (12, 8), LARGE_FONT))?;
    let mut at = 12;
    for (index, (system, mode, colour)) in SERIES.iter().enumerate() {
        let mut values = panels
            .iter()
            .flat_map(|panel| &panel.groups)
            .map(|(_, values)| values[index]);
        if !values.any(|value| value.is_some()) {
            continue;
        }
        let name = match *system {
            OURS => (*mode).to_owned(),
            system => format!("{system} {mode}"),
        };
        area.draw(&Rectangle::new([(at, 40), (at + 12, 52)], colour.filled()))?;
        area.draw(&Text::new(name.clone(), (at + 17, 40), FONT))?;
        at += 40 + 8 * name.len() as i32;
    }
    Ok(())
}

/// One panel: a group takes a unit of the horizontal axis.
fn bars<Y>(area: &Area<'_>, panel: &Panel, values: Y, floor: f64) -> Result<(), PlotError>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let count = panel.groups.len();
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, FONT)
        .margin(8)
        .x_label_area_size(26)
        .y_label_area_size(52)
        .build_cartesian_2d::<std::ops::Range<f64>, Y>(0.0..count as f64, values)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .label_style(SMALL_FONT)
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    let middle = Pos::new(HPos::Center, VPos::Top);
    for (index, (name, values)) in panel.groups.iter().enumerate() {
        let left = index as f64;
        let there: Vec<(f64, RGBColor)> = values
            .iter()
            .zip(&SERIES)
            .filter_map(|(value, (_, _, colour))| Some(((*value)?, *colour)))
            .collect();
        let width = 0.9 / there.len().max(1) as f64;
        for (place, (value, colour)) in there.into_iter().enumerate() {
            let from = left + 0.05 + width * place as f64;
            let to = from + width * 0.9;
            let top = value.max(floor);
            let corners = [(from, floor), (to, top)];
            chart.draw_series([Rectangle::new(corners, colour.filled())])?;
            let style = SMALL_FONT
                .into_text_style(area)
                .pos(Pos::new(HPos::Center, VPos::Bottom));
            let label = Text::new(short(value), ((from + to) / 2.0, top), style);
            chart.draw_series([label])?;
        }
        let (at, below) = chart.backend_coord(&(left + 0.5, floor));
        let style = FONT.into_text_style(area).pos(middle);
        let (x, y) = area.get_base_pixel();
        area.draw(&Text::new(name.clone(), (at - x, below - y + 4), style))?;
    }
    Ok(())
}

/// A number for a narrow place.
fn short(value: f64) -> String {
    match value.abs() {
        huge if huge >= 99_500.0 => format!("{:.0}k", value / 1000.0),
        large if large >= 9950.0 => format!("{:.1}k", value / 1000.0),
        middle if middle >= 9.95 => format!("{value:.0}"),
        _ => {
            let text = format!("{value:.2}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::{even, row};
    use super::*;

    fn rows() -> Vec<IoRow> {
        let mut all = Vec::new();
        for (system, mode, share) in [
            ("ours", "strict", 0.5),
            ("ours", "bounce", 0.7),
            ("linux", "lazy", 0.65),
        ] {
            let mut row = row(system, mode);
            row.pattern = "rand".into();
            row.over_bypass = even(share);
            all.push(row);
        }
        all
    }

    #[test]
    fn every_bar_is_there_with_its_value_and_its_name() {
        let pictures = pictures(&rows()).unwrap();
        // Nothing else was measured.
        let [(file, text)] = &pictures[..] else {
            panic!("{pictures:?}");
        };
        assert_eq!(*file, IOPS);
        for word in [
            "blk on aarch64",
            "4K",
            "strict",
            "linux lazy",
            "0.5",
            "0.7",
            "0.65",
        ] {
            assert!(text.contains(&format!("\n{word}\n")), "{word} in {text}");
        }
        // A colour in the legend and in one bar each.
        for colour in ["#1F77B4", "#2CA02C", "#FF9896"] {
            assert_eq!(text.matches(colour).count(), 2, "{colour} in {text}");
        }
        assert!(!text.contains("deferred"), "{text}");
    }

    #[test]
    fn nothing_measured_is_no_picture() {
        assert!(pictures(&[]).unwrap().is_empty());
        let mut rows = rows();
        for row in &mut rows {
            row.operation = "write".into();
        }
        assert!(pictures(&rows).unwrap().is_empty());
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (0.656, "0.66"),
            (2.0, "2"),
            (33.4, "33"),
            (1837.0, "1837"),
            (12_604.0, "12.6k"),
            (360_000.0, "360k"),
        ] {
            assert_eq!(short(value), expected);
        }
    }
}
