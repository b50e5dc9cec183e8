'use strict';
(() => {
  // What the coordinator, or `quantflctl report`, put into the page:
  //   {generator, live, runs: [{summary, configuration, clients_live}]}
  // `summary` is summary.json as its README describes it. Whatever was not measured is null there,
  // and is shown as absent, never as zero.
  const data = JSON.parse(document.getElementById('data').textContent);
  const byId = (id) => document.getElementById(id);

  // Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
  const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#8a6d3b', '#7b6fd0'];
  const DASHES = [[], [6, 4], [2, 3], [9, 4, 2, 4]];
  const colour = (i) => COLOURS[i % COLOURS.length];
  const dash = (i) => DASHES[Math.floor(i / COLOURS.length) % DASHES.length];

  const LEVELS = [
    ['payload_bytes', 'codec payload (L1)', 'payload'],
    ['messages_bytes', 'Protobuf messages (L2)', 'messages'],
    ['stream_bytes', 'TCP stream (L3)', 'stream'],
    ['tcp_bytes', 'TCP with retransmissions (L4)', 'TCP'],
    ['link_bytes', 'link, IP packets (L5)', 'link'],
  ];
  const PHASES = [['collect', 'training and uploads'], ['fold', 'fold'], ['commit', 'commit'], ['evaluate', 'evaluation']];

  // ---- numbers ----

  const NARROW = '\u00a0';  // between a figure and its unit no line ends
  const known = (v) => typeof v === 'number' && Number.isFinite(v);
  function bytes(v) {
    if (!known(v)) return '–';
    const units = ['B', 'kB', 'MB', 'GB', 'TB'];
    let unit = 0;
    while (Math.abs(v) >= 1000 && unit < units.length - 1) { v /= 1000; ++unit; }
    return (unit === 0 ? v.toFixed(0) : v.toPrecision(v >= 100 ? 4 : 3)) + NARROW + units[unit];
  }
  // 0.0000071 g is 7.10 µg.
  function scaled(v, unit) {
    if (!known(v)) return '–';
    const prefixes = [[1e3, 'k'], [1, ''], [1e-3, 'm'], [1e-6, 'µ'], [1e-9, 'n']];
    const [factor, prefix] = prefixes.find(([f]) => Math.abs(v) >= f) || [1, ''];
    return (v === 0 ? '0' : (v / factor).toPrecision(3)) + NARROW + prefix + unit;
  }
  const tick = (v) => bytes(v).replace(/(\.\d*?)0+(?=\u00a0)/, '$1').replace(/\.(?=\u00a0)/, '');  // 1.50 MB as 1.5 MB
  const fixed = (digits) => (v) => known(v) ? v.toFixed(digits) : '–';
  const percent = (v) => known(v) ? (100 * v).toFixed(2) + NARROW + '%' : '–';
  const count = (v) => known(v) ? v.toLocaleString('en') : '–';
  const seconds = (v) => known(v) ? (v < 10 ? v.toFixed(2) : v.toFixed(1)) + NARROW + 's' : '–';
  const text = (v) => v === null || v === undefined || v === '' ? '–' : String(v);
  // The sum; absent where one of them is.
  const sum = (values) => values.every(known) ? values.reduce((a, b) => a + b, 0) : null;

  // The evaluator's; where a run has none, what clients found on their own data.
  function accuracyOf(r) {
    if (known(r.accuracy)) return r.accuracy;
    return r.client_evaluation && known(r.client_evaluation.accuracy) ? r.client_evaluation.accuracy : null;
  }
  const roundsOf = (run) => run.summary.rounds || [];
  // What the round under way has carried is not known yet, which is not the same as absent.
  const isUnderWay = (r) => !r.committed && !r.reason;
  const endedOf = (run) => roundsOf(run).filter((r) => !isUnderWay(r));
  const committed = (run) => roundsOf(run).filter((r) => r.committed);
  const nameOf = (run) => (run.summary.run && run.summary.run.name) || 'run';
  const codecOf = (run) => (run.summary.run && run.summary.run.codec) || '';
  function labelOf(run) {
    const same = data.runs.filter((other) => nameOf(other) === nameOf(run)).length > 1;
    return nameOf(run) + (same && run.folder ? ' (' + run.folder + ')' : '') + (codecOf(run) ? ', ' + codecOf(run) : '');
  }
  function levelOf(counters, direction, level) {
    if (!counters) return null;
    const of = (way) => counters[way] && known(counters[way][level]) ? counters[way][level] : null;
    return direction === 'both' ? sum([of('uplink'), of('downlink')]) : of(direction);
  }
  // Evaluators are ours, not the devices': their bytes are not in these pictures.
  function accuracyCurve(run, direction, level) {
    const points = [];
    let total = 0;
    for (const r of endedOf(run)) {
      const carried = levelOf(r.bytes, direction, level);
      if (carried === null) return { points, absentFrom: r.round };
      total += carried;
      const accuracy = accuracyOf(r);
      if (r.committed && known(accuracy)) points.push({ x: total, y: 100 * accuracy, round: r.round });
    }
    return { points, absentFrom: null };
  }
  function bitsPerParameter(run) {
    let carried = 0, parameters = 0;
    for (const r of roundsOf(run)) {
      const p = r.accepted_payload || {};
      carried += ['codes_bytes', 'tables_bytes', 'side_information_bytes', 'headers_bytes']
        .reduce((a, key) => a + (known(p[key]) ? p[key] : 0), 0);
      parameters += (r.accepted || 0) * (r.parameters || 0);
    }
    return parameters > 0 ? 8 * carried / parameters : null;
  }
  // The mean over the rounds that made a model for clients to fetch.
  function downlinkBits(run) {
    const bits = committed(run).filter((r) => r.accepted > 0).map((r) => r.downlink_bits_per_parameter);
    return bits.length > 0 && bits.every(known) ? sum(bits) / bits.length : null;
  }
  function budgetOf(run) {
    const b = run.summary.budget;
    if (!b) return '–';
    const limits = [['total_bytes', ''], ['uplink_bytes_per_round', ' up a round'], ['bytes_per_client', ' a client']]
      .filter(([key]) => known(b[key])).map(([key, what]) => bytes(b[key]) + what);
    return bytes(b.spent_bytes) + ' spent of ' + limits.join(', ') + ' (' + text(b.level) + ')';
  }
  function finalAccuracy(run) {
    const evaluated = committed(run).filter((r) => accuracyOf(r) !== null);
    if (evaluated.length === 0) return null;
    return accuracyOf(evaluated[evaluated.length - 1]);
  }
  const totals = (run, direction, level) => sum(endedOf(run).map((r) => levelOf(r.bytes, direction, level)));
  const spent = (run, phase) => sum(endedOf(run).map((r) => r.seconds ? r.seconds[phase] : null));
  // The lowest level of the wire that was measured everywhere.
  function bestLevel() {
    for (const level of ['stream_bytes', 'messages_bytes', 'payload_bytes']) {
      if (data.runs.every((run) => totals(run, 'both', level) !== null)) return level;
    }
    return 'payload_bytes';
  }

  // ---- elements; text is always set as text ----

  function element(tag, content, attributes) {
    const e = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) e.setAttribute(key, value);
    for (const part of Array.isArray(content) ? content : [content]) {
      if (part === undefined || part === null) continue;
      e.append(part instanceof Node ? part : document.createTextNode(String(part)));
    }
    return e;
  }
  // Figures stand at the right, words at the left: the first column, and those in `words`.
  function fillTable(table, titles, rows, words) {
    const side = (i) => (words || []).includes(i) ? { class: 'text' } : {};
    const head = element('thead', element('tr', titles.map((title, i) => element('th', title, side(i)))));
    const body = element('tbody', rows.map((row) => element('tr', row.map((cell, i) => element('td', cell, side(i))))));
    table.replaceChildren(head, body);
    return table;
  }
  const scrolling = (table) => element('div', table, { class: 'scroll' });

  // ---- pictures ----

  const charts = new Map();
  function draw(id, configuration) {
    const older = charts.get(id);
    if (older) {
      // The same chart goes on, so that a page which updates itself does not flicker.
      older.data = configuration.data;
      older.options = configuration.options;
      older.update('none');
      return;
    }
    charts.set(id, new Chart(byId(id), configuration));
  }
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  function options(x, y, more) {
    const axis = (given) => ({
      type: given.type || 'linear', stacked: Boolean(given.stacked), beginAtZero: Boolean(given.zero),
      title: { display: Boolean(given.title), text: given.title, color: style('--soft') },
      grid: { color: style('--line') },
      ticks: { color: style('--soft'), maxRotation: 0, precision: given.precision, autoSkip: !given.all, autoSkipPadding: 12,
               ...(given.few ? { maxTicksLimit: innerWidth < 500 ? 4 : 6 } : {}),
               ...(given.show ? { callback: (v) => given.show(v) } : {}) },
    });
    return {
      responsive: true, maintainAspectRatio: false, animation: false,
      interaction: { mode: 'nearest', intersect: false },
      scales: { x: axis(x), y: axis(y) },
      plugins: {
        legend: { labels: { color: style('--ink'), boxWidth: 10, boxHeight: 7, usePointStyle: true } },
        tooltip: more || {},
      },
    };
  }
  // A name can have 64 characters; the whole of it stands in the tables.
  const shortened = (name) => name.length > 28 ? name.slice(0, 27) + '…' : name;
  const series = (run, i, points, more) => ({
    label: shortened(labelOf(run)), data: points, borderColor: colour(i), backgroundColor: colour(i), borderDash: dash(i),
    borderWidth: 2, pointRadius: points.length > 60 ? 0 : 3, pointHitRadius: 8, tension: 0, showLine: true, ...more,
  });

  function drawAccuracy() {
    const level = byId('level').value, direction = byId('direction').value, logarithmic = byId('log').checked;
    const notes = [];
    const datasets = data.runs.map((run, i) => {
      const curve = accuracyCurve(run, direction, level);
      if (curve.absentFrom !== null) {
        notes.push(labelOf(run) + ': this level was not measured in round ' + curve.absentFrom + ', so the curve ends before it.');
      }
      return series(run, i, curve.points.filter((p) => !logarithmic || p.x > 0));
    });
    draw('accuracy', {
      type: 'scatter', data: { datasets },
      options: options({ title: 'bytes of all trainers since the run began', type: logarithmic ? 'logarithmic' : 'linear', show: tick, few: true },
                       { title: 'accuracy, %' },
                       { callbacks: { label: (c) => c.dataset.label + ': ' + c.parsed.y.toFixed(2) + ' % after ' +
                                        bytes(c.parsed.x) + ', round ' + c.raw.round } }),
    });
    const empty = datasets.every((s) => s.data.length === 0);
    byId('accuracy').parentElement.hidden = empty;
    const over = data.runs.every((run) => ['finished', 'stopped', 'failed'].includes(run.summary.state));
    if (empty && notes.length === 0) notes.push(over ? 'No round was evaluated.' : 'No round has been evaluated yet.');
    byId('accuracy-note').textContent = notes.join(' ') ||
      'Every dot is a committed round, evaluated. Bytes are counted at the coordinator; evaluators are left out.';
  }

  function byRound(value) {
    return data.runs.map((run, i) => series(run, i, committed(run).filter((r) => known(value(r))).map((r) => ({ x: r.round, y: value(r) }))));
  }

  function drawAll() {
    drawAccuracy();
    draw('bits', {
      type: 'scatter', data: { datasets: byRound((r) => r.accepted > 0 ? r.bits_per_parameter : null) },
      options: options({ title: 'round', precision: 0 }, { title: 'bits a parameter', zero: true },
                       { callbacks: { label: (c) => c.dataset.label + ': ' + c.parsed.y.toFixed(4) + ' bits in round ' + c.parsed.x } }),
    });
    const testLoss = byRound((r) => r.loss);
    const trainLoss = byRound((r) => r.train_loss).map((s) => ({ ...s, label: s.label + ' (training)', borderDash: [3, 4], borderWidth: 1, pointRadius: 0 }));
    draw('loss', {
      type: 'scatter', data: { datasets: testLoss.concat(trainLoss).filter((s) => s.data.length > 0) },
      options: options({ title: 'round', precision: 0 }, { title: 'loss', zero: true }),
    });
    const ways = [['uplink', 'up'], ['downlink', 'down']];
    const shown = LEVELS.filter(([level]) => data.runs.some((run) => totals(run, 'uplink', level) !== null));
    draw('levels', {
      type: 'bar',
      data: {
        labels: ways.flatMap(([, way]) => shown.map(([, , title]) => way + ', ' + title)),
        datasets: data.runs.map((run, i) => ({
          label: labelOf(run), backgroundColor: colour(i), categoryPercentage: 0.8, barPercentage: 0.95,
          data: ways.flatMap(([way]) => shown.map(([level]) => totals(run, way, level))),
        })),
      },
      // Lying, so that the names of ten bars can be read on a phone too.
      options: { ...options({ show: tick, zero: true, few: true }, { type: 'category', all: true },
                            { callbacks: { label: (c) => c.dataset.label + ': ' + bytes(c.parsed.x) } }), indexAxis: 'y' },
    });
    draw('seconds', {
      type: 'bar',
      data: {
        labels: data.runs.map((run) => shortened(labelOf(run))),
        datasets: PHASES.map(([phase, title], i) => ({ label: title, backgroundColor: colour(i), maxBarThickness: 56,
                                                       data: data.runs.map((run) => spent(run, phase)), stack: 'phases' })),
      },
      options: { ...options({ title: 'seconds, all rounds', stacked: true, zero: true }, { type: 'category', stacked: true, all: true },
                            { callbacks: { label: (c) => c.dataset.label + ': ' + seconds(c.parsed.x) } }), indexAxis: 'y' },
    });
  }

  // ---- words and tables ----

  function writeCards() {
    byId('cards').classList.toggle('one', data.runs.length === 1);
    byId('cards').replaceChildren(...data.runs.map((run, i) => {
      const rows = [
        ['rounds', count(run.summary.rounds_committed)],
        ['bits a parameter, uplink', fixed(3)(bitsPerParameter(run))],
        ['up, TCP stream', bytes(totals(run, 'uplink', 'stream_bytes'))],
        ['down, TCP stream', bytes(totals(run, 'downlink', 'stream_bytes'))],
        ['state', text(run.summary.state)],
      ];
      const card = element('div', [
        element('div', labelOf(run), { class: 'name' }),
        element('div', percent(finalAccuracy(run)), { class: 'big', title: 'accuracy of the last evaluated model' }),
        element('dl', rows.map(([title, value]) => element('div', [element('dt', title), element('dd', value)]))),
      ], { class: 'card' });
      card.style.setProperty('--series', colour(i));
      return card;
    }));
  }

  function writeRuns() {
    const rows = [
      ['uplink codec', (run) => text(codecOf(run))],
      ['downlink codec', (run) => text(run.summary.run && run.summary.run.downlink_codec)],
      ['state', (run) => text(run.summary.state)],
      ['why', (run) => text(run.summary.reason)],
      ['rounds', (run) => count(run.summary.rounds_committed)],
      ['accuracy', (run) => percent(finalAccuracy(run))],
      ...[['uplink', 'up'], ['downlink', 'down']].flatMap(([way, title]) =>
        LEVELS.map(([level, name]) => [title + ', ' + name, (run) => bytes(totals(run, way, level))])),
      ['late payload', (run) => bytes(sum(roundsOf(run).map((r) => r.late_payload_bytes)))],
      ['refused payload', (run) => bytes(sum(roundsOf(run).map((r) => r.refused_payload_bytes)))],
      ['repeated payload', (run) => bytes(sum(roundsOf(run).map((r) => r.repeated_payload_bytes)))],
      ['idle, TCP stream, both ways', (run) => bytes(sum(endedOf(run).map((r) => levelOf(r.idle_bytes, 'both', 'stream_bytes'))))],
      ['bits a parameter, uplink', (run) => fixed(4)(bitsPerParameter(run))],
      ['bits a parameter, downlink', (run) => fixed(4)(downlinkBits(run))],
      ['budget', (run) => budgetOf(run)],
      ['copies repaired', (run) => count(sum(roundsOf(run).map((r) => r.model_repairs)))],
      ...PHASES.map(([phase, title]) => ['seconds, ' + title, (run) => seconds(spent(run, phase))]),
      ['seconds, slowest client training', (run) => seconds(spent(run, 'client_train_max'))],
      ['seconds, slowest client upload', (run) => seconds(spent(run, 'client_upload_max'))],
    ];
    const shown = rows.map(([title, value]) => [title, ...data.runs.map(value)]).filter((row) => row.slice(1).some((v) => v !== '–'));
    fillTable(byId('runs'), ['', ...data.runs.map(labelOf)], shown);
    byId('runs-title').textContent = data.runs.length === 1 ? 'The run in figures' : 'Runs side by side';
  }

  const lastSeen = new Map();
  // Bytes a second of a client's uplink since the page was last told, for the live page.
  function linkRate(run, client) {
    const carried = client.bytes && client.bytes.uplink ? client.bytes.uplink.stream_bytes : null;
    if (!data.live || !known(carried)) return null;
    const key = client.name, now = performance.now(), before = lastSeen.get(key);
    if (!before || now - before.at > 900) lastSeen.set(key, { at: now, carried, rate: before ? (carried - before.carried) / ((now - before.at) / 1000) : null });
    const rate = lastSeen.get(key).rate;
    return known(rate) && rate >= 0 ? rate : null;
  }

  function foldable(title, content, open) {
    const details = element('details', [element('summary', title), content]);
    details.open = Boolean(open);
    return details;
  }
  // Replaces what is below `parent` and keeps open what the reader had opened.
  function replaceFoldables(parent, made) {
    const open = new Map([...parent.querySelectorAll('details')].map((d) => [d.firstChild.textContent, d.open]));
    for (const details of made) {
      const title = details.firstChild.textContent;
      if (open.has(title)) details.open = open.get(title);
    }
    parent.replaceChildren(...made);
  }

  // What the client counted of the stream itself, and how far that is from what was counted here.
  function ownCount(client, way) {
    const own = levelOf(client.told_bytes, way, 'stream_bytes'), here = levelOf(client.bytes, way, 'stream_bytes');
    if (own === null || here === null || here === 0) return '–';
    const difference = 100 * (own / here - 1);
    return (difference > 0 ? '+' : difference < 0 ? '−' : '') + Math.abs(difference).toFixed(2) + NARROW + '%';
  }
  // Computing and link together, marked as modelled unless all of it was measured.
  function joules(energy) {
    if (!energy) return '–';
    const parts = [energy.compute_measured_j, energy.compute_modelled_j, energy.link_modelled_j].filter(known);
    if (parts.length === 0) return '–';
    const modelled = known(energy.compute_modelled_j) || known(energy.link_modelled_j);
    return scaled(sum(parts), 'J') + ', ' + (known(energy.compute_measured_j) ? (modelled ? 'partly measured' : 'measured') : 'modelled');
  }

  function writeClients() {
    replaceFoldables(byId('clients'), data.runs.map((run) => {
      const clients = run.summary.clients || [];
      const titles = ['client', 'role', 'state', 'round', ...(data.live ? ['upload', 'up now'] : []),
                      'stream up', 'link up', 'stream down', 'link down',
                      'own count up', 'down', 'idle', 'for nothing', 'energy'];
      const rows = clients.map((c) => {
        const of = (way, level) => bytes(c.bytes && c.bytes[way] ? c.bytes[way][level] : null);
        const rate = linkRate(run, c);
        return [text(c.name), text(c.role) + (known(c.client_index) ? NARROW + c.client_index : ''), text(c.state), text(c.last_round),
                ...(data.live ? [c.upload_chunks_total > 0 ? c.upload_chunks_done + '/' + c.upload_chunks_total : '–',
                                 rate === null ? '–' : bytes(rate) + '/s'] : []),
                ...['uplink', 'downlink'].flatMap((way) => ['stream_bytes', 'link_bytes'].map((level) => of(way, level))),
                ownCount(c, 'uplink'), ownCount(c, 'downlink'), bytes(levelOf(c.idle_bytes, 'both', 'stream_bytes')),
                bytes(sum([c.late_payload_bytes, c.refused_payload_bytes])), joules(c.energy)];
      });
      const note = element('p', 'Own count: how far the stream that the client counted, as of its last report, is from the one counted ' +
        'here. Idle: of the stream, both ways, while it had no task. For nothing: payload too late, replaced or refused. All levels are in clients.csv and, by round, client_rounds.csv.',
        { class: 'note' });
      const content = clients.length > 0 ? element('div', [scrolling(fillTable(element('table'), titles, rows, [1, 2])), note])
                                         : element('p', 'This run recorded no table of its clients.', { class: 'note' });
      return foldable(labelOf(run) + ': ' + clients.length + ' clients', content, data.runs.length === 1);
    }));
  }

  function writeRounds() {
    replaceFoldables(byId('rounds'), data.runs.map((run) => {
      const titles = ['round', 'accepted', 'late', 'refused', 'accuracy', 'loss', 'training loss', 'bits/param', 'NMSE',
                      'up stream', 'down stream', 'seconds', 'remark'];
      const rows = roundsOf(run).map((r) => [
        r.round + (r.attempt > 1 ? ' (try ' + r.attempt + ')' : ''), r.accepted + '/' + r.cohort, count(r.late), count(r.refused),
        percent(accuracyOf(r)), fixed(4)(r.loss), fixed(4)(r.train_loss),
        r.accepted > 0 ? fixed(4)(r.bits_per_parameter) : '–',
        known(r.quantisation_nmse) ? r.quantisation_nmse.toPrecision(3) : '–',
        bytes(levelOf(r.bytes, 'uplink', 'stream_bytes')), bytes(levelOf(r.bytes, 'downlink', 'stream_bytes')),
        r.seconds ? fixed(2)(r.seconds.total) : '–', r.committed ? '' : isUnderWay(r) ? 'under way' : 'abandoned: ' + text(r.reason),
      ]);
      return foldable(labelOf(run) + ': ' + roundsOf(run).length + ' rounds', scrolling(fillTable(element('table'), titles, rows, [12])), data.live);
    }));
  }

  function writeRepeat() {
    replaceFoldables(byId('repeat'), data.runs.map((run) => {
      const s = run.summary, r = s.run || {};
      const rows = [
        ['software', 'quantfl ' + text(s.software_version)], ['run', text(r.run_id)], ['started', text(s.started)], ['seed', text(r.seed)],
        ['architecture', text(r.architecture)], ['initial model, SHA-256', text(r.initial_model_sha256)],
        ['schema, SHA-256', text(r.schema_sha256)], ['final model, SHA-256', text(s.final && s.final.model_sha256)],
        ['host', text(s.host)],
      ].filter(([, value]) => value !== '–');
      const table = scrolling(fillTable(element('table'), ['', ''], rows));
      const parts = [table];
      if (run.configuration) {
        parts.push(element('h3', 'effective.toml: quantfl-coordinator --config effective.toml'), element('pre', run.configuration));
      }
      return foldable(labelOf(run), element('div', parts), false);
    }));
  }

  function writeEnergy() {
    const withEnergy = data.runs.filter((run) => run.summary.energy && Array.isArray(run.summary.energy.items));
    byId('energy-panel').hidden = withEnergy.length === 0;
    if (withEnergy.length === 0) return;
    const titles = ['', 'kind', ...withEnergy.map(labelOf)];
    const names = [];
    for (const run of withEnergy) for (const item of run.summary.energy.items) if (!names.some((n) => n.name === item.name)) names.push(item);
    fillTable(byId('energy'), titles, names.map((n) => [n.name, n.kind, ...withEnergy.map((run) => {
      const found = run.summary.energy.items.find((item) => item.name === n.name);
      return found && known(found.value) ? scaled(found.value, text(found.unit)) : '–';
    })]), [1]);
    byId('energy-note').textContent = [...new Set(withEnergy.flatMap((run) => run.summary.energy.sources || []))].join(' ');
  }

  // "2026-05-01T10:20:30+00:00" as "2026-05-01 10:20 UTC".
  const whenOf = (started) => text(started).replace(/^(\S+)T(\d\d:\d\d):\d\d(?:\+00:00|Z)$/, '$1 $2 UTC');
  function writeHeader() {
    const live = data.live && data.runs.length === 1 ? data.runs[0].summary : null;
    byId('title').textContent = data.runs.length === 1 ? nameOf(data.runs[0]) : 'QuantFL: ' + data.runs.length + ' runs';
    document.title = byId('title').textContent + ' · QuantFL';
    const s = data.runs.length === 1 ? data.runs[0].summary : null;
    byId('subtitle').textContent = s === null ? data.runs.map(nameOf).join(' · ')
      : [s.run && s.run.architecture, codecOf(data.runs[0]), whenOf(s.started)].filter(Boolean).join(' · ');
    byId('footer').textContent = 'Made by ' + data.generator + '. A level that could not be measured is shown as –, never estimated.';
    byId('now').hidden = live === null;
    if (live === null) return;
    byId('state').textContent = text(live.state).replace(/_/g, ' ');
    byId('state').className = 'badge ' + text(live.state);
    const now = live.now || {};
    const total = live.policy ? live.policy.rounds : 0;
    byId('phase').textContent = 'round ' + count(now.round) + ' of ' + count(total) +
      (now.phase && now.phase !== 'idle' ? ', ' + now.phase : '') +
      (now.cohort > 0 ? ', ' + now.accepted + ' of ' + now.cohort + ' updates in' : '') +
      ', ' + count(now.trainers_connected) + ' trainers connected';
    byId('bar').style.width = total > 0 ? Math.min(100, 100 * (live.rounds_committed || 0) / total) + '%' : '0';
  }

  function show() {
    writeHeader();
    writeCards();
    drawAll();
    writeEnergy();
    writeRuns();
    writeClients();
    writeRounds();
    writeRepeat();
  }

  for (const [level, title] of LEVELS) byId('level').append(element('option', title, { value: level }));
  byId('level').value = bestLevel();
  for (const id of ['level', 'direction', 'log']) byId(id).addEventListener('change', drawAccuracy);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAll);
  show();

  // ---- the live page ----

  if (data.live) {
    let asked = false, again = false;
    // One request at a time; what happens meanwhile asks once more.
    async function refresh() {
      if (asked) { again = true; return; }
      asked = true;
      try {
        const answer = await fetch('api/run', { cache: 'no-store' });
        if (answer.ok) {
          data.runs = [await answer.json()];
          if (byId('level').dataset.chosen !== 'yes') byId('level').value = bestLevel();
          show();
        }
      } catch (e) { /* the event stream says that the coordinator is away */ }
      asked = false;
      if (again) { again = false; setTimeout(refresh, 300); }
    }
    byId('level').addEventListener('change', () => { byId('level').dataset.chosen = 'yes'; });
    const events = new EventSource('api/events');
    events.addEventListener('change', refresh);
    events.addEventListener('open', refresh);
    events.addEventListener('error', () => {
      const state = data.runs[0].summary.state;
      if (state === 'finished' || state === 'stopped' || state === 'failed') { events.close(); return; }
      byId('state').textContent = 'disconnected';
      byId('state').className = 'badge disconnected';
    });
  }
})();
