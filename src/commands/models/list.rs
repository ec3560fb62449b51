//! `models list`: the cards, or the families.

use crate::card::{self, Card};
use crate::commands::show::{self, Shape};
use crate::error::{Error, Result};
use crate::hub;
use crate::model::family::FAMILIES;
use clap::Args;
use serde::Serialize;

#[derive(Args, Debug)]
pub(super) struct List {
    /// Only models whose name, title, family, repository or licence contains this
    filter: Option<String>,

    /// Only models of this family
    #[arg(long, value_name = "NAME")]
    family: Option<String>,

    /// Only models whose licence contains this
    #[arg(long, value_name = "TEXT")]
    license: Option<String>,

    /// Only models that are on this machine
    #[arg(long)]
    cached: bool,

    /// List the families of checkpoints that can be read, not the models
    #[arg(long, conflicts_with_all = ["filter", "family", "license", "cached"])]
    families: bool,

    /// table or jsonl [default: a table on a terminal, else jsonl]
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, hide_default_value = true)]
    format: Shape,
}

/// A card, and whether its checkpoint is on this machine.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    card: &'static Card,
    here: bool,
}

impl List {
    pub(super) fn run(&self) -> Result<()> {
        if self.families {
            return list_families(self.format);
        }
        let here = |card: &Card| card.repository.is_none() || hub::cached(&card.alias).is_some();
        let cards = card::all().iter().filter(|card| self.wants(card));
        let all = cards.map(|card| Listed { card, here: here(card) });
        let listed: Vec<Listed> = all.filter(|listed| listed.here || !self.cached).collect();
        if listed.is_empty() {
            return Err(Error::usage("no known model is like this")
                .hint("`clip-cli models list` shows all; a repository on the Hub is org/name"));
        }
        if !self.format.is_table() {
            return show::write_jsonl(listed);
        }
        let mut table = show::table(&["NAME", "MODEL", "FAMILY", "PIXELS", "IMAGENET", "LICENCE", "HERE"]);
        for Listed { card, here } in listed {
            let imagenet = card.accuracy.iter().find(|score| score.set == "ImageNet-1k");
            table.add_row([
                card.alias.clone(),
                card.title.clone(),
                card.family.value.clone(),
                card.image_size.value.to_string(),
                imagenet.map_or(String::new(), |score| format!("{:.1} %", 100.0 * score.value)),
                card.license.value.clone(),
                if here { "yes" } else { "" }.to_owned(),
            ]);
        }
        show::write_table(&table)
    }

    fn wants(&self, card: &Card) -> bool {
        let contains = |text: &str, part: &str| text.to_lowercase().contains(&part.to_lowercase());
        self.filter.as_deref().is_none_or(|filter| card.matches(filter))
            && self.family.as_deref().is_none_or(|family| card.family.value.eq_ignore_ascii_case(family))
            && self.license.as_deref().is_none_or(|license| contains(&card.license.value, license))
    }
}

fn list_families(format: Shape) -> Result<()> {
    #[derive(Serialize)]
    struct Row {
        family: &'static str,
        about: &'static str,
    }
    let rows: Vec<Row> = FAMILIES.iter().map(|family| Row { family: family.name(), about: family.about() }).collect();
    if !format.is_table() {
        return show::write_jsonl(rows);
    }
    let mut table = show::table(&["FAMILY", "WHAT IT COVERS"]);
    for row in rows {
        table.add_row([row.family, row.about]);
    }
    show::write_table(&table)
}
