//! Accuracy, recall and precision of a classifier whose every input has one true class.

use super::Interval;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Counts what a classifier answered, one input at a time.
///
/// Where two classes score the same, the one with the lower index comes first.
#[derive(Clone, Debug)]
pub struct Tally {
    classes: usize,
    first: u64,
    first_five: u64,
    /// How often each (true, answered) pair of classes occurred.
    pairs: BTreeMap<(usize, usize), u64>,
}

/// What a [`Tally`] amounts to.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// How many inputs were counted.
    pub n: u64,
    /// The share of inputs whose true class scored highest.
    pub acc1: f64,
    /// Its Wilson interval.
    pub acc1_interval: Interval,
    /// The share of inputs whose true class is among the best five; not defined for fewer than five classes.
    pub acc5: Option<f64>,
    /// Its Wilson interval.
    pub acc5_interval: Option<Interval>,
    /// The mean of the recalls of all classes that have inputs (balanced accuracy).
    pub mean_per_class_recall: f64,
    /// Its interval, from the Wilson intervals of the recalls.
    pub mean_per_class_recall_interval: Interval,
    /// The mean of the F1 scores of all classes that have inputs, as Dassl's evaluator has it (scikit-learn's `f1_score` with
    /// `average="macro"` over the labels that occur).
    pub macro_f1: f64,
    /// Every class, in the order of the classes.
    pub classes: Vec<ClassMetrics>,
}

/// What a [`Tally`] says about one class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassMetrics {
    /// How many inputs belong to the class.
    pub n: u64,
    /// How many inputs were answered with the class.
    pub answered: u64,
    /// The share of its inputs that were answered with it; `None` without inputs.
    pub recall: Option<f64>,
    /// The share of those answered with it that belong to it; `None` if none was.
    pub precision: Option<f64>,
    /// The wrong class that its inputs were answered with most often, and how often.
    pub confusion: Option<(usize, u64)>,
}

impl ClassMetrics {
    /// The harmonic mean of recall and precision; `None` without inputs.
    pub fn f1(&self) -> Option<f64> {
        let recall = self.recall?;
        // 2 hits / (inputs + answers)
        Some(2.0 * recall * self.n as f64 / (self.n + self.answered) as f64)
    }
}

impl Tally {
    /// The answers of a classifier, from its logits, a row of `classes` numbers for each label.
    ///
    /// # Panics
    /// If the lengths do not fit each other, or there is no such class.
    pub fn of(logits: &[f32], classes: usize, labels: &[usize]) -> Self {
        assert_eq!(logits.len(), labels.len() * classes, "a row for each label");
        let mut tally = Self::new(classes);
        let mut row = vec![0.0; classes];
        for (logits, &label) in logits.chunks_exact(classes.max(1)).zip(labels) {
            row.iter_mut().zip(logits).for_each(|(wide, &narrow)| *wide = f64::from(narrow));
            tally.add(label, &row);
        }
        tally
    }

    /// Nothing counted yet.
    pub fn new(classes: usize) -> Self {
        Self { classes, first: 0, first_five: 0, pairs: BTreeMap::new() }
    }

    /// Counts one input: its true class, and a score or logit for each class.
    ///
    /// # Panics
    /// If the number of scores is not that of the classes, or there is no such class.
    pub fn add(&mut self, truth: usize, scores: &[f64]) {
        assert_eq!(scores.len(), self.classes, "a score for every class");
        let own = scores[truth];
        let beats = |&(class, score): &(usize, &f64)| *score > own || (*score == own && class < truth);
        let rank = scores.iter().enumerate().filter(beats).count();
        let answer = scores.iter().enumerate().fold(0, |best, (i, score)| if *score > scores[best] { i } else { best });
        self.first += u64::from(rank == 0);
        self.first_five += u64::from(rank < 5);
        *self.pairs.entry((truth, answer)).or_default() += 1;
    }

    /// How many inputs were counted.
    pub fn n(&self) -> u64 {
        self.pairs.values().sum()
    }

    /// The metrics; `None` if nothing was counted.
    pub fn metrics(&self) -> Option<Metrics> {
        let n = self.n();
        if n == 0 {
            return None;
        }
        let share = |hits: u64| hits as f64 / n as f64;
        let classes: Vec<ClassMetrics> = (0..self.classes).map(|class| self.class(class)).collect();
        let recalls: Vec<f64> = classes.iter().filter_map(|class| class.recall).collect();
        let five = self.classes >= 5;
        Some(Metrics {
            n,
            acc1: share(self.first),
            acc1_interval: Interval::wilson(self.first, n),
            acc5: five.then(|| share(self.first_five)),
            acc5_interval: five.then(|| Interval::wilson(self.first_five, n)),
            mean_per_class_recall: recalls.iter().sum::<f64>() / recalls.len() as f64,
            mean_per_class_recall_interval: Interval::mean(
                classes.iter().enumerate().map(|(i, class)| (self.pair(i, i), class.n)),
            ),
            macro_f1: classes.iter().filter_map(ClassMetrics::f1).sum::<f64>() / recalls.len() as f64,
            classes,
        })
    }

    /// How often each true class (row) was answered with each class (column), row by row.
    pub fn confusion(&self) -> Vec<u64> {
        let mut table = vec![0; self.classes * self.classes];
        for (&(truth, answer), &count) in &self.pairs {
            table[truth * self.classes + answer] = count;
        }
        table
    }

    fn pair(&self, truth: usize, answer: usize) -> u64 {
        self.pairs.get(&(truth, answer)).copied().unwrap_or(0)
    }

    fn class(&self, class: usize) -> ClassMetrics {
        let own = || self.pairs.range((class, 0)..=(class, usize::MAX)).map(|(&(_, answer), &count)| (answer, count));
        let n: u64 = own().map(|(_, count)| count).sum();
        let answered = self.pairs.iter().filter(|((_, answer), _)| *answer == class).map(|(_, count)| count).sum();
        let hits = self.pair(class, class);
        let ratio = |of: u64| (of > 0).then(|| hits as f64 / of as f64);
        let confusion = own().filter(|(answer, _)| *answer != class).max_by_key(|&(i, count)| (count, Reverse(i)));
        ClassMetrics { n, answered, recall: ratio(n), precision: ratio(answered), confusion }
    }
}

/// The best class of each row of logits; of equal ones the first.
///
/// # Panics
/// If there are no classes.
pub fn answers(logits: &[f32], classes: usize) -> Vec<usize> {
    let best = |row: &[f32]| (1..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best });
    logits.chunks_exact(classes).map(best).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six classes; the fourth has no inputs.
    fn tally() -> Tally {
        let mut tally = Tally::new(6);
        tally.add(0, &[0.9, 0.1, 0.0, 0.0, 0.0, 0.0]); // right
        tally.add(0, &[0.1, 0.9, 0.0, 0.0, 0.0, 0.0]); // answered 1, second
        tally.add(0, &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]); // answered 5, last
        tally.add(1, &[0.1, 0.9, 0.0, 0.0, 0.0, 0.0]); // right
        tally.add(2, &[0.0, 0.9, 0.8, 0.0, 0.0, 0.0]); // answered 1, second
        tally.add(4, &[0.1, 0.1, 0.1, 0.1, 0.9, 0.1]); // right
        tally.add(5, &[0.5, 0.1, 0.1, 0.1, 0.1, 0.1]); // answered 0; ties with four lower ones: sixth
        tally
    }

    #[test]
    fn by_hand() {
        let metrics = tally().metrics().unwrap();
        assert_eq!((metrics.n, metrics.acc1, metrics.acc5), (7, 3.0 / 7.0, Some(5.0 / 7.0)));
        // Recalls 1/3, 1, 0, none, 1, 0.
        assert_eq!(metrics.mean_per_class_recall, (1.0 / 3.0 + 1.0 + 0.0 + 1.0 + 0.0) / 5.0);
        // F1 scores 2/5, 2/4, 0, none, 1, 0.
        assert!((metrics.macro_f1 - (0.4 + 0.5 + 1.0) / 5.0).abs() < 1e-15);
        let confusion = tally().confusion();
        assert_eq!(confusion[..6], [1, 1, 0, 0, 0, 1]);
        assert_eq!((confusion.len(), confusion.iter().sum::<u64>(), confusion[5 * 6]), (36, 7, 1));
        assert_eq!(metrics.acc1_interval, Interval::wilson(3, 7));
        assert_eq!(metrics.acc5_interval, Some(Interval::wilson(5, 7)));
        let class =
            |n, answered, recall, precision, confusion| ClassMetrics { n, answered, recall, precision, confusion };
        assert_eq!(metrics.classes[0], class(3, 2, Some(1.0 / 3.0), Some(0.5), Some((1, 1))));
        assert_eq!(metrics.classes[1], class(1, 3, Some(1.0), Some(1.0 / 3.0), None));
        assert_eq!(metrics.classes[2], class(1, 0, Some(0.0), None, Some((1, 1))));
        assert_eq!(metrics.classes[3], class(0, 0, None, None, None));
        assert_eq!(metrics.classes[5], class(1, 1, Some(0.0), Some(0.0), Some((0, 1))));
    }

    #[test]
    fn logits_are_rows_of_scores() {
        let logits = [0.5f32, 0.5, 0.1, 0.2, 0.9, 0.9];
        let tally = Tally::of(&logits, 3, &[1, 2]);
        assert_eq!(tally.confusion(), [0, 0, 0, 1, 0, 0, 0, 1, 0]);
        assert_eq!(answers(&logits, 3), [0, 1]);
    }

    #[test]
    fn ties_go_to_the_lowest_class() {
        let mut tally = Tally::new(2);
        tally.add(0, &[0.5, 0.5]);
        tally.add(1, &[0.5, 0.5]);
        let metrics = tally.metrics().unwrap();
        assert_eq!(metrics.acc1, 0.5);
        assert_eq!(metrics.classes[1].confusion, Some((0, 1)));
    }

    #[test]
    fn fewer_than_five_classes_have_no_acc5() {
        let mut tally = Tally::new(4);
        assert_eq!(tally.metrics(), None);
        tally.add(3, &[0.0, 0.0, 0.0, 1.0]);
        let metrics = tally.metrics().unwrap();
        assert_eq!((metrics.acc1, metrics.acc5, metrics.acc5_interval), (1.0, None, None));
    }
}
