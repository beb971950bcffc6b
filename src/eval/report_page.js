// Draws the figures of a report (eval/report.h) with Vega-Lite, for light and for dark screens.
'use strict';
(() => {
  // Vega makes expressions of names, and its parser takes no line ends in them.
  const report = JSON.parse(document.getElementById('report').textContent, (_, value) => (
    typeof value === 'string' ? value.replace(/[\u0000-\u001f\u2028\u2029]/g, ' ') : value));
  const dark = matchMedia('(prefers-color-scheme: dark)');

  // Okabe and Ito's colours without black and yellow, and two more; lighter ones on black. A scorer
  // also has a shape: with 8 colours and 7 shapes, 56 scorers differ.
  const COLOURS = {
    light: ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#7b4a2d', '#7a7a7a'],
    dark: ['#4ba3dd', '#ef7f37', '#2cc295', '#dc98be', '#f0b43c', '#93d2f7', '#b98a6d', '#a8a8a8'],
  };
  const SHAPES =
      ['circle', 'square', 'triangle-up', 'diamond', 'cross', 'triangle-down', 'triangle-right'];
  const DASHES = [[1, 0], [5, 3], [1.5, 2], [8, 2, 2, 2], [3, 1], [10, 4]];
  const OPACITIES = [1, 0.5, 0.25, 0.75, 0.4, 0.15];
  const WIDTH = 1060;  // of all panels of a row

  const cycle = (list, names) => names.map((_, i) => list[i % list.length]);
  const unique = (list) => [...new Set(list)];
  const clamp = (low, value, high) => Math.min(high, Math.max(low, value));
  const numbers = (points, field) => points.map((p) => p[field]).filter(Number.isFinite);

  function theme() {
    const text = dark.matches ? '#e3e6e9' : '#1c1f23';
    const quiet = dark.matches ? '#9aa3ac' : '#5c646d';
    const line = dark.matches ? '#353b41' : '#d9dde1';
    return {text, quiet, line, colours: dark.matches ? COLOURS.dark : COLOURS.light};
  }

  function config({text, quiet, line}) {
    return {
      background: null,
      font: 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif',
      view: {stroke: line},
      axis: {
        domainColor: quiet, tickColor: quiet, gridColor: line, gridOpacity: 0.7, labelColor: text,
        titleColor: text, titleFontWeight: 'normal', labelFontSize: 11, titleFontSize: 11,
      },
      legend: {
        labelColor: text, titleColor: quiet, titleFontWeight: 'normal', labelFontSize: 11,
        titleFontSize: 11, labelLimit: 190, symbolStrokeWidth: 1.5, gradientLength: 120,
      },
      header: {labelColor: text, labelFontSize: 11, labelFontWeight: 600},
    };
  }

  // Scales and legends that are the same in all plots, so that a scorer looks the same everywhere.
  function scorerColour(points, colours, tried = 'scorer') {
    const used = report.scorers.filter((name) => points.some((p) => p.scorer === name));
    return {
      field: 'scorer', type: 'nominal',
      scale: {domain: report.scorers, range: cycle(colours, report.scorers)},
      legend: used.length > 1 ? {title: tried, values: used} : null,
    };
  }

  function scorerShape(points, tried) {
    return {
      ...scorerColour(points, [], tried),
      scale: {domain: report.scorers, range: cycle(SHAPES, report.scorers)},
    };
  }

  function byVariant(points, range, type) {
    const used = report.variants.filter((name) => points.some((p) => p.variant === name));
    if (used.length === 0) return {value: range[0]};
    return {
      field: 'variant', type,
      scale: {domain: report.variants, range: cycle(range, report.variants)},
      legend: used.length > 1 ? {title: 'budget', values: used} : null,
    };
  }

  const pick = {name: 'picked', select: {type: 'point', fields: ['scorer']}, bind: 'legend'};
  const faintUnlessPicked = (opacity) =>
      ({condition: {param: 'picked', value: opacity, empty: true}, value: 0.08});

  function facets(points, columns, labelLimit) {
    const panels = unique(points.map((p) => p.panel));
    const named = panels.some((name) => name !== '');
    return {
      facet: {
        field: 'panel', type: 'nominal', sort: panels, title: null,
        header: named ? {title: null, labelLimit, labelAnchor: 'start'} : null,
      },
      columns,
    };
  }

  const format = (y) => (y.percent ? '.1%' : y.most === 100 ? '.1f' : '.4~f');

  const name = (y) => y.title.replace(/ \(.*\)/, '');

  function tooltip(y, x) {
    return [
      {field: 'plan', title: 'plan'},
      {field: 'category', title: 'of'},
      {field: 'y', type: 'quantitative', title: name(y), format: format(y)},
      {field: 'low', type: 'quantitative', title: '95 % from', format: format(y)},
      {field: 'high', type: 'quantitative', title: 'to', format: format(y)},
      {field: 'share', type: 'quantitative', title: 'kept', format: '.1%'},
      {field: 'mib', type: 'quantitative', title: 'KV, MiB', format: '.2f'},
      {field: 'x', type: 'quantitative', title: x?.title, format: '.6~g'},
    ];
  }

  // What a tooltip has no value for is not shown in it.
  function tooltipOf(points, y, x) {
    return tooltip(y, x).filter(({field}) => points.some((p) => p[field] != null && p[field] !== ''));
  }

  function xAxis(points, field, title) {
    const values = numbers(points, field);
    const low = Math.min(...values);
    if (field !== 'share') {
      return {
        field, type: 'quantitative', scale: {type: 'log', nice: false, domain: [
          low / 1.1, Math.max(...values) * 1.1]},
        axis: {title, format: '.6~f', tickCount: 5},
      };
    }
    const ticks = [1, 2, 4, 8, 16, 32, 64, 128, 256].map((part) => 1 / part);
    return {
      field, type: 'quantitative',
      scale: {type: 'log', base: 2, nice: false, domain: [low * 0.9, 1]},
      axis: {title: 'entries kept (%)', values: ticks.filter((t) => t >= low * 0.9), format: '.3~%'},
    };
  }

  function yAxis(points, y) {
    const axis = {title: y.title, format: y.percent ? '.0%' : ',.6~f', tickCount: 6};
    if (y.log) return {scale: {type: 'log', nice: false}, axis};
    if (y.most === 0) return {scale: {zero: false}, axis};
    // What stays in the upper half is seen better there.
    const low = Math.min(...['y', 'low'].flatMap((field) => numbers(points, field)));
    const from = low > 0.5 * y.most ? Math.floor(low / y.most * 10) / 10 * y.most : 0;
    return {scale: {domain: [from, y.most]}, axis};
  }

  // Against `against`, what the reader chose, unless the figure has an x of its own.
  function lines({x: own, tried, y, points, full}, {colours, quiet}, against) {
    const x = own ? 'x' : against;
    const drawn = points.filter((p) => p[x] > 0 && (!y.log || p.y > 0)).map((p) => ({
      ...p, kind: 'plan', low: y.log && p.low <= 0 ? p.y : p.low,
    }));
    if (drawn.length === 0) return null;
    const baseline = full.map((p) => ({...p, kind: 'full', plan: 'full cache'}));
    const all = [...drawn, ...baseline];
    const panels = unique(drawn.map((p) => p.panel));
    const columns = Math.min(3, panels.length);
    const {scale, axis} = yAxis(all, y);
    const yOf = (field) => ({field, type: 'quantitative', scale, axis});
    const xOf = xAxis(drawn, x, own?.title ?? 'KV memory (MiB)');
    const colour = scorerColour(drawn, colours, tried);
    const ofFull = [{filter: "datum.kind === 'full'"}];
    const ofPlans = [{filter: "datum.kind === 'plan'"}];
    const width = Math.min(380, WIDTH / columns - 90);
    const intervals = {
      transform: [...ofPlans, {filter: 'isValid(datum.low)'}],
      mark: {type: 'rule', strokeWidth: 1.2},
      encoding: {
        x: xOf, y: yOf('low'), y2: {field: 'high'}, color: colour,
        opacity: faintUnlessPicked(0.55),
      },
    };
    const fullInterval = {
      transform: ofFull, mark: {type: 'rect', color: quiet, opacity: 0.12, tooltip: null},
      encoding: {y: yOf('low'), y2: {field: 'high'}},
    };
    const fullCache = {
      transform: ofFull, mark: {type: 'rule', color: quiet, strokeDash: [3, 3]},
      encoding: {y: yOf('y'), tooltip: tooltipOf(baseline, y)},
    };
    return {
      data: {values: all.filter((p) => panels.includes(p.panel))},
      ...facets(drawn, columns, width),
      spec: {
        width, height: Math.min(280, width * 0.75),
        layer: [
          ...(baseline.some((p) => p.low != null) ? [fullInterval] : []),
          ...(baseline.length > 0 ? [fullCache] : []),
          {
            transform: ofPlans, mark: {type: 'line', strokeWidth: 1.4},
            encoding: {
              x: xOf, y: yOf('y'), color: colour, strokeDash: byVariant(drawn, DASHES, 'nominal'),
              opacity: faintUnlessPicked(0.9),
            },
          },
          ...(drawn.some((p) => p.low != null) ? [intervals] : []),
          {
            transform: ofPlans, params: [pick],
            mark: {type: 'point', filled: true, size: 48},
            encoding: {
              x: xOf, y: yOf('y'), color: colour, shape: scorerShape(drawn, tried),
              opacity: faintUnlessPicked(1), tooltip: tooltipOf(drawn, y, own),
            },
          },
        ],
      },
    };
  }

  function bars({y, points, full}, {colours, text}) {
    const panels = unique(points.map((p) => p.panel));
    const categories = unique(points.map((p) => p.category));
    const series = (p) => `${p.scorer}, ${p.variant}`;
    const plans = unique(points.map(series));
    const most = Math.max(...panels.flatMap((panel) => categories.map(
        (category) => points.filter((p) => p.panel === panel && p.category === category).length)));
    const columns = Math.min(4, panels.length);
    const values = numbers([...points, ...full], 'y').concat(numbers(points, 'low'));
    const low = Math.min(0, ...values);
    const width = Math.min(420, WIDTH / columns - 60);
    const category = {
      field: 'category', type: 'nominal', sort: categories, axis: {title: null, labelLimit: 170},
    };
    const offset = most > 1 ? {yOffset: {field: 'series', type: 'nominal', sort: plans}} : {};
    const xOf = (field) => ({
      field, type: 'quantitative',
      scale: {domain: [low < 0 ? Math.floor(low * 10) / 10 : 0, y.most]},
      axis: {title: y.title, format: y.percent ? '.0%' : '.6~f', tickCount: 5},
    });
    const ofFull = [{filter: "datum.kind === 'full'"}];
    const ofPlans = [{filter: "datum.kind === 'plan'"}];
    const own = unique(points.map((p) => p.scorer)).length === categories.length && most === 1;
    const colour = {...scorerColour(points, colours), ...(own ? {legend: null} : {})};
    const step = most === 1 ? 18 : clamp(3, Math.round(72 / most), 10) * most + 8;  // of a category
    const intervals = {
      transform: [...ofPlans, {filter: 'isValid(datum.low)'}],
      mark: {type: 'rule', color: text, strokeWidth: 1},
      encoding: {
        y: category, x: xOf('low'), x2: {field: 'high'}, ...offset,
        opacity: faintUnlessPicked(0.8),
      },
    };
    const fullCache = {
      transform: ofFull, mark: {type: 'tick', color: text, thickness: 2},
      encoding: {
        y: category, x: xOf('y'), tooltip: [
          {field: 'plan', title: 'plan'},
          {field: 'category', title: 'of'},
          {field: 'y', type: 'quantitative', title: name(y), format: format(y)},
        ],
      },
    };
    return {
      data: {values: [
        ...points.map((p) => ({...p, kind: 'plan', series: series(p)})),
        ...full.map((p) => ({...p, kind: 'full', plan: 'full cache'})),
      ]},
      ...facets(points, columns, width),
      spec: {
        width, height: step * categories.length,
        layer: [
          {
            transform: ofPlans, params: [pick], mark: {type: 'bar'},
            encoding: {
              y: category, x: xOf('y'), ...offset, color: colour,
              opacity: byVariant(points, OPACITIES, 'ordinal'), fillOpacity: faintUnlessPicked(1),
              tooltip: tooltipOf(points, y),
            },
          },
          ...(points.some((p) => p.low != null) ? [intervals] : []),
          ...(full.length > 0 ? [fullCache] : []),
        ],
      },
    };
  }

  function heat({x, y, value, domain, points}) {
    const xs = unique(points.map((p) => p.x)).sort((a, b) => a - b);
    const ys = unique(points.map((p) => p.y)).sort((a, b) => a - b);
    const counted = points.some((p) => p.of != null);
    const step = counted ? {x: 44, y: 22} : {x: clamp(8, 260 / xs.length, 20), y: 13};
    const width = xs.length * step.x;
    const every = xs.length > 16 ? 5 : 1;
    const fitting = clamp(1, Math.floor((WIDTH + 60) / (Math.max(width, 190) + 45)), 6);
    // A row ends where the shares kept begin anew, if it can.
    const keeps = unique(points.map((p) => p.keep ?? '')).filter((keep) => keep !== '').length;
    const columns = keeps > 0 && keeps <= fitting ? fitting - fitting % keeps : fitting;
    const encoding = {
      x: {
        field: 'x', type: 'ordinal', sort: xs,
        axis: {
          title: x.title, labelAngle: 0, format: ',d', ticks: false, domain: false,
          values: xs.filter((_, i) => i % every === 0),
        },
      },
      y: {
        field: 'y', type: 'ordinal', sort: ys,
        axis: {title: y.title, format: y.percent ? '.0%' : 'd', ticks: false, domain: false},
      },
    };
    const diverging = domain[0] < 0;
    const tip = [
      {field: 'panel', title: 'plan'},
      {field: 'x', title: x.title, format: ',d'},
      {field: 'y', title: y.title, format: y.percent ? '.0%' : 'd'},
      {field: 'value', title: value.title, format: value.percent ? '.1%' : '.3f'},
    ];
    if (counted) {
      tip.push({field: 'low', title: '95 % from', format: '.1%'});
      tip.push({field: 'high', title: 'to', format: '.1%'}, {field: 'of', title: 'trials'});
    }
    const cells = {
      mark: {type: 'rect'},
      encoding: {
        ...encoding,
        color: {
          field: 'value', type: 'quantitative',
          scale: {scheme: diverging ? 'blueorange' : 'viridis', domain,
            ...(diverging ? {domainMid: 0} : {})},
          legend: {title: value.title, format: value.percent ? '.0%' : '.6~f'},
        },
        tooltip: tip,
      },
    };
    const labels = {
      mark: {type: 'text', fontSize: 10, tooltip: null},
      encoding: {
        ...encoding,
        text: {field: 'value', type: 'quantitative', format: '.0%'},
        color: {condition: {test: 'datum.value < 0.55', value: '#ffffff'}, value: '#000000'},
      },
    };
    return {
      data: {values: points},
      ...facets(points, columns, Math.max(width, 190)),
      spec: {width, height: ys.length * step.y, layer: counted ? [cells, labels] : [cells]},
    };
  }

  const KINDS = {lines, bars, heat};

  function complain(error) {
    const line = document.createElement('p');
    line.className = 'error';
    line.textContent = `This page could not be drawn as it should be: ${error}`;
    document.querySelector('header').append(line);
  }

  async function draw(figure) {
    const place = document.querySelector(`[data-figure="${figure.id}"]`);
    const look = theme();
    const x = document.querySelector('input[name=against]:checked')?.value ?? 'share';
    const spec = KINDS[figure.kind](figure.data, look, x);
    if (spec === null) return;
    spec.description = figure.title;
    await vegaEmbed(place, {...spec, spacing: {row: 24, column: 28}}, {
      actions: false, ast: true, config: config(look), defaultStyle: false, mode: 'vega-lite',
      renderer: 'svg', tooltip: {theme: dark.matches ? 'dark' : 'light'},
    });
    place.dataset.drawn = figure.kind;
  }

  async function drawAll(figures) {
    for (const figure of figures) await draw(figure).catch(complain);
  }

  addEventListener('error', (event) => complain(event.message));
  dark.addEventListener('change', () => drawAll(report.figures));
  for (const input of document.querySelectorAll('input[name=against]')) {
    input.addEventListener('change', () => drawAll(report.figures.filter((f) => f.kind === 'lines')));
  }
  drawAll(report.figures);
})();
