'use strict';
(() => {
  const figures = JSON.parse(document.getElementById('figures').textContent);
  const sections = [...document.querySelectorAll('main > section')];
  const list = document.getElementById('tabs');
  const hidden = new Set(); // The names whose lines are not shown.
  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function look() {
    const axis = { gridcolor: colour('--line'), zerolinecolor: colour('--line') };
    return {
      'font.color': colour('--ink'),
      'hoverlabel.bgcolor': colour('--raised'),
      'hoverlabel.font.color': colour('--ink'),
      'modebar.activecolor': colour('--ink'),
      'modebar.bgcolor': 'rgba(0,0,0,0)',
      'modebar.color': colour('--faint'),
      ...Object.fromEntries(
        ['xaxis', 'yaxis'].flatMap((name) =>
          Object.entries(axis).map(([key, value]) => [`${name}.${key}`, value]),
        ),
      ),
    };
  }

  function draw(canvas) {
    const { data, layout } = figures[canvas.id];
    const traces = data.map((trace) => ({
      ...trace,
      visible: !hidden.has(trace.legendgroup),
    }));
    const common = {
      autosize: true,
      font: { family: 'system-ui, sans-serif', size: 12 },
      hoverlabel: { align: 'left', font: { family: 'system-ui, sans-serif' } },
      hovermode: 'closest',
      margin: { l: 64, r: 12, t: 12, b: 44 },
      paper_bgcolor: 'rgba(0,0,0,0)',
      plot_bgcolor: 'rgba(0,0,0,0)',
      showlegend: false,
    };
    if (layout.height) canvas.style.height = `${layout.height}px`;
    const axis = (own) => ({ automargin: true, ...own });
    Plotly.newPlot(
      canvas,
      traces,
      { ...common, ...layout, xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis) },
      {
        displaylogo: false,
        modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']],
        responsive: true,
      },
    ).then(() => Plotly.relayout(canvas, look()));
  }

  const drawn = () => [...document.querySelectorAll('.canvas.js-plotly-plot')];

  function show(number, focus) {
    sections.forEach((section, place) => {
      const chosen = place === number;
      const button = list.children[place];
      section.hidden = !chosen;
      button.setAttribute('aria-selected', String(chosen));
      button.tabIndex = chosen ? 0 : -1;
      if (chosen && focus) button.focus();
    });
    // A plot takes its size from its place, which a hidden one does not have.
    for (const canvas of sections[number].querySelectorAll('.canvas')) {
      if (canvas.classList.contains('js-plotly-plot')) Plotly.Plots.resize(canvas);
      else draw(canvas);
    }
  }

  function toggle(name) {
    if (!hidden.delete(name)) hidden.add(name);
    for (const button of document.querySelectorAll('.legend button')) {
      button.setAttribute('aria-pressed', String(!hidden.has(button.dataset.name)));
    }
    for (const canvas of drawn()) {
      Plotly.restyle(canvas, {
        visible: canvas.data.map((trace) => !hidden.has(trace.legendgroup)),
      });
    }
  }

  document.body.classList.add('with-tabs');
  list.setAttribute('role', 'tablist');
  sections.forEach((section, place) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.id = `${section.id}-button`;
    button.textContent = section.querySelector('h2').textContent;
    button.setAttribute('role', 'tab');
    button.setAttribute('aria-controls', section.id);
    button.addEventListener('click', () => {
      history.replaceState(null, '', `#${section.id}`);
      show(place, false);
    });
    list.append(button);
    section.setAttribute('role', 'tabpanel');
    section.setAttribute('aria-labelledby', button.id);
  });
  list.addEventListener('keydown', (event) => {
    const now = [...list.children].indexOf(document.activeElement);
    const last = sections.length - 1;
    const next = {
      ArrowRight: now === last ? 0 : now + 1,
      ArrowLeft: now === 0 ? last : now - 1,
      Home: 0,
      End: last,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    show(next, true);
  });
  for (const button of document.querySelectorAll('.legend button')) {
    button.addEventListener('click', () => toggle(button.dataset.name));
  }
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    for (const canvas of drawn()) Plotly.relayout(canvas, look());
  });
  const asked = sections.findIndex((section) => `#${section.id}` === location.hash);
  show(Math.max(asked, 0), false);
})();
